"""How pip makes a package of this folder: the Python files, shim.c and the two headers, which lie two folders above. A wheel
is a zip file with a list in it, so nothing has to be fetched to make one, and nothing is written here. The library is
compiled at the first import, by the compiler of the machine it runs on."""
import base64
import hashlib
import re
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADERS = HERE.parent.parent


def wheel(folder, files):
    """Writes the wheel to the folder and returns its name."""
    header = (HEADERS / "haste.h").read_text(encoding="utf-8")
    version = ".".join(re.search(rf"#define HASTE_VERSION_{part} (\d+)", header)[1] for part in ("MAJOR", "MINOR", "PATCH"))
    info = f"haste-{version}.dist-info"
    files = {**files,
             f"{info}/METADATA": f"Metadata-Version: 2.1\nName: haste\nVersion: {version}\nLicense: MIT\n"
                                 f"Requires-Python: >=3.9\nRequires-Dist: numpy\n".encode(),
             f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: build_wheel.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = ""
    name = f"haste-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(data)}\n"
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return name


def build_wheel(folder, settings=None, metadata=None):
    files = {f"haste/{file.name}": file.read_bytes() for file in sorted((HERE / "haste").iterdir())
             if file.suffix in (".py", ".c")}
    files.update({f"haste/{name}": (HEADERS / name).read_bytes() for name in ("haste.h", "haste_cuda.cuh")})
    return wheel(folder, files)


def build_editable(folder, settings=None, metadata=None):   # pip install -e: a line that leads back here
    return wheel(folder, {"haste.pth": f"{HERE}\n".encode()})
