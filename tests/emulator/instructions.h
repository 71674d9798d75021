// instructions.h: what haste_cuda.cuh writes in PTX, on a CPU: see cuda_runtime.h.

namespace emulator {

inline float from_bf16(uint32_t two, int high) { const uint32_t v = high ? two & 0xffff0000u : two << 16; return emulated_bits<float>(&v); }
inline uint32_t to_bf16(float v)   // to nearest
{
    const uint32_t bits = emulated_bits<uint32_t>(&v);
    return v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t read32(uint32_t at) { return emulated_bits<uint32_t>(shared_pointer(at)); }

// ---- asynchronous copies of a thread ----

inline void copy_later(uint32_t to, const void *from, int bytes, bool wanted)
{
    if (self->copy_count == self->copy_room) {
        self->copy_room = self->copy_room ? 2 * self->copy_room : 64;
        self->copies = (copy *)realloc((void *)self->copies, (size_t)self->copy_room * sizeof(copy));
    }
    if (to % (uint32_t)bytes || (uintptr_t)from % (uintptr_t)bytes) die("a copy that is not aligned");
    memset(shared_pointer(to), 0xff, (size_t)bytes);
    self->copies[self->copy_count++] = { to, from, bytes, wanted };
}
inline void copy_close()
{
    if (self->batch_count == 64) die("too many batches of copies");
    self->batches[self->batch_count++] = self->copy_count;
}
inline void copy_make(int batches)   // the first ones
{
    const int n = batches > 0 ? self->batches[batches - 1] : 0;
    for (int i = 0; i < n; i++) {
        const copy *c = &self->copies[i];
        if (c->wanted) memcpy(shared_pointer(c->to), c->from, (size_t)c->bytes);
        else memset(shared_pointer(c->to), 0, (size_t)c->bytes);
    }
    memmove((void *)self->copies, self->copies + n, (size_t)(self->copy_count - n) * sizeof(copy));
    self->copy_count -= n;
    for (int i = batches; i < self->batch_count; i++) self->batches[i - batches] = self->batches[i] - n;
    self->batch_count -= batches;
}

// ---- mbarriers: a phase ends when all have arrived and all bytes have ----

struct mbarrier { uint16_t expected, left; int32_t bytes_phase; };   // bytes in the upper 31 bits, the phase in the lowest
inline mbarrier *mbarrier_at(uint32_t at) { return (mbarrier *)shared_pointer(at); }
inline void mbarrier_step(uint32_t at, int arrivals, int bytes)
{
    mbarrier *m = mbarrier_at(at);
    if (arrivals > m->left) die("more arrivals than an mbarrier expects");
    m->left = (uint16_t)(m->left - arrivals);
    m->bytes_phase += bytes * 2;
    if (m->left == 0 && m->bytes_phase >> 1 == 0) { m->left = m->expected; m->bytes_phase ^= 1; idle = 0; }
}

// Bytes on their way, which an mbarrier counts: they arrive when somebody waits for it.
struct delivery { uint32_t to, barrier; const void *from; int bytes; float value[4]; };
inline delivery *deliveries;
inline int delivery_count, delivery_room;
inline void deliver_later(delivery d)
{
    if (delivery_count == delivery_room) {
        delivery_room = delivery_room ? 2 * delivery_room : 256;
        deliveries = (delivery *)realloc((void *)deliveries, (size_t)delivery_room * sizeof(delivery));
    }
    memset(shared_pointer(d.to), 0xff, (size_t)d.bytes);
    deliveries[delivery_count++] = d;
}
inline void mbarrier_wait(uint32_t at, uint32_t parity)
{
    wait_until([=] {
        int kept = 0;
        for (int i = 0; i < delivery_count; i++) {
            const delivery d = deliveries[i];
            if (d.barrier != at) { deliveries[kept++] = d; continue; }
            memcpy(shared_pointer(d.to), d.from ? d.from : d.value, (size_t)d.bytes);
            mbarrier_step(at, 0, -d.bytes);
        }
        delivery_count = kept;
        return ((uint32_t)mbarrier_at(at)->bytes_phase & 1) != parity;
    });
}

// Bulk copies out of shared memory, made when they are waited for.
struct leaving { thread *owner; void *to; uint32_t from; uint32_t bytes; };
inline leaving *leavings;
inline int leaving_count, leaving_room;
inline void leave_now()
{
    int kept = 0;
    for (int i = 0; i < leaving_count; i++) {
        if (leavings[i].owner != self) { leavings[kept++] = leavings[i]; continue; }
        memcpy(leavings[i].to, shared_pointer(leavings[i].from), leavings[i].bytes);
    }
    leaving_count = kept;
}

// ---- products ----

struct mma_lane { float *d; const uint32_t *a; uint32_t b[2]; const float *c; };
inline void mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1, const float *c)
{
    mma_lane lane = { d, a, { b0, b1 }, c };
    together(~0u, &lane, [](mma_lane **all, uint32_t) {
        float A[16][16], B[16][8], D[16][8];
        for (int l = 0; l < 32; l++) for (int e = 0; e < 2; e++) {
            for (int r = 0; r < 4; r++) A[l / 4 + (r & 1) * 8][l % 4 * 2 + e + (r >> 1) * 8] = from_bf16(all[l]->a[r], e);
            for (int r = 0; r < 2; r++) B[l % 4 * 2 + e + r * 8][l / 4] = from_bf16(all[l]->b[r], e);
        }
        for (int l = 0; l < 32; l++) for (int r = 0; r < 4; r++) D[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2] = all[l]->c[r];
        for (int i = 0; i < 16; i++) for (int j = 0; j < 8; j++) {
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += A[i][k] * B[k][j];
            D[i][j] += sum;
        }
        for (int l = 0; l < 32; l++) for (int r = 0; r < 4; r++) all[l]->d[r] = D[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
    });
}

// Rows of four 8x8 matrices, which lanes 8j .. 8j + 7 point to; and where a lane's part of them is.
struct matrix_lane { uint32_t row; uint32_t *r; };
inline void ldmatrix(uint32_t *r, uint32_t row, bool trans)
{
    matrix_lane lane = { row, r };
    if (row % 16) die("a row of ldmatrix that is not aligned");
    const auto operation = [](matrix_lane **all, bool t) {
        for (int j = 0; j < 4; j++) {
            uint16_t m[8][8];
            for (int i = 0; i < 8; i++) memcpy(m[i], shared_pointer(all[8 * j + i]->row), 16);
            for (int l = 0; l < 32; l++) {
                const uint16_t low = t ? m[l % 4 * 2][l / 4] : m[l / 4][l % 4 * 2], high = t ? m[l % 4 * 2 + 1][l / 4] : m[l / 4][l % 4 * 2 + 1];
                all[l]->r[j] = low | (uint32_t)high << 16;
            }
        }
    };
    if (trans) together(~0u, &lane, [=](matrix_lane **all, uint32_t) { operation(all, true); });
    else together(~0u, &lane, [=](matrix_lane **all, uint32_t) { operation(all, false); });
}

inline uint32_t transpose8(uint32_t two)
{
    value_of<uint32_t> lane = { two, 0, 0 };
    together(~0u, &lane, [](value_of<uint32_t> **all, uint32_t) {
        uint16_t m[8][8];
        for (int l = 0; l < 32; l++) for (int e = 0; e < 2; e++) m[l / 4][l % 4 * 2 + e] = (uint16_t)(all[l]->in >> 16 * e);
        for (int l = 0; l < 32; l++) all[l]->out = m[l % 4 * 2][l / 4] | (uint32_t)m[l % 4 * 2 + 1][l / 4] << 16;
    });
    return lane.out;
}

// An operand of wgmma in shared memory: row pitch by its mode (1, 2, 3: 128, 64, 32 bytes), its 16-byte units permuted.
inline float wgmma_element(uint64_t matrix, int mn, int k, int mn_along_rows)
{
    const uint32_t at = (uint32_t)(matrix & 0x3fff) << 4, jump = (uint32_t)(matrix >> 16 & 0x3fff) << 4;
    const uint32_t eight = (uint32_t)(matrix >> 32 & 0x3fff) << 4, mode = (uint32_t)(matrix >> 62);
    const uint32_t pitch = 256u >> mode, columns = pitch / 2;
    uint32_t offset = mn_along_rows ? (uint32_t)mn / columns * jump + (uint32_t)k / 8 * eight + (uint32_t)k % 8 * pitch + (uint32_t)mn % columns * 2
                                    : (uint32_t)mn / 8 * eight + (uint32_t)mn % 8 * pitch + (uint32_t)k * 2;
    uint32_t address = at + offset;
    address ^= (address >> 7 & ((8u >> (mode - 1)) - 1)) << 4;
    uint16_t v;
    memcpy(&v, self->home->shared + address, 2);
    return from_bf16(v, 0);
}
struct wgmma_lane { float *d; uint64_t a, b; int add; };
inline void wgmma(float *d, uint64_t a, uint64_t b, int add, int n, int ta, int tb)
{
    wgmma_lane lane = { d, a, b, add };
    together(~0u, &lane, [=](wgmma_lane **all, uint32_t) {
        const int warp = (int)(self->index.x / 32 % 4);
        static float A[16][16], B[16][256];
        for (int i = 0; i < 16; i++) for (int k = 0; k < 16; k++) A[i][k] = wgmma_element(all[0]->a, 16 * warp + i, k, ta);
        for (int k = 0; k < 16; k++) for (int j = 0; j < n; j++) B[k][j] = wgmma_element(all[0]->b, j, k, tb);
        for (int l = 0; l < 32; l++) for (int i = 0; i < n / 2; i++) {
            const int row = l / 4 + (i >> 1 & 1) * 8, column = i / 4 * 8 + l % 4 * 2 + (i & 1);
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += A[row][k] * B[k][column];
            all[l]->d[i] = (all[l]->add ? all[l]->d[i] : 0) + sum;
        }
    });
}

}  // namespace emulator

static inline uint32_t haste__cu_address(const void *p) { return emulator::shared_address(p); }
static inline void haste__cu_copy16(void *to, const void *from, bool wanted) { emulator::copy_later(haste__cu_address(to), from, 16, wanted); }
static inline void haste__cu_copy16(uint32_t to, const void *from, bool wanted) { emulator::copy_later(to, from, 16, wanted); }
static inline void haste__cu_copy16(uint32_t to, const void *from) { emulator::copy_later(to, from, 16, true); }
static inline void haste__cu_copy16(void *to, const void *from) { emulator::copy_later(haste__cu_address(to), from, 16, true); }
static inline void haste__cu_copy4(uint32_t to, const void *from) { emulator::copy_later(to, from, 4, true); }
static inline void haste__cu_copy_batch() { emulator::copy_close(); }
static inline void haste__cu_copy_wait() { emulator::copy_close(); emulator::copy_make(emulator::self->batch_count); }
template <int N> static inline void haste__cu_copy_wait_but()
{
    if (emulator::self->batch_count > N) emulator::copy_make(emulator::self->batch_count - N);
}
static inline void haste__cu_ldmatrix(uint32_t *r, const void *row) { emulator::ldmatrix(r, haste__cu_address(row), false); }
static inline void haste__cu_ldmatrix_trans(uint32_t *r, const void *row) { emulator::ldmatrix(r, haste__cu_address(row), true); }
static inline void haste__cu_mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) { emulator::mma(c, a, b0, b1, c); }
static inline void haste__cu_add4(float *p, float a, float b, float c, float d) { p[0] += a; p[1] += b; p[2] += c; p[3] += d; }
static inline void haste__cu_allow_next() {}
static inline void haste__cu_wait_before() {}
static inline void haste__cu_prefetch(const void *) {}
static inline uint4 haste__cu_load_fresh(const void *p) { emulator::pause(); return *(const uint4 *)p; }
static inline void haste__cu_write8(void *p, uint32_t a, uint32_t b) { const uint32_t v[2] = { a, b }; memcpy(p, v, 8); }
static inline void haste__cu_write16(void *p, uint32_t a, uint32_t b, uint32_t c, uint32_t d) { const uint32_t v[4] = { a, b, c, d }; memcpy(p, v, 16); }
static inline uint32_t haste__cu_transpose8(uint32_t two) { return emulator::transpose8(two); }
static inline uint32_t haste__cu_pack_fast(float low, float high) { return emulator::to_bf16(low) | emulator::to_bf16(high) << 16; }
static inline float haste__cu_exp2(float x) { return exp2f(x); }
static inline float haste__cu_inverse(float x) { return 1 / x; }
static inline float haste__cu_root(float x) { return sqrtf(x); }
static inline float haste__cu_log2(float x) { return log2f(x); }

static inline uint32_t haste__cu_lds16(uint32_t at) { return emulated_bits<uint16_t>(emulator::shared_pointer(at)); }
static inline uint32_t haste__cu_lds32(uint32_t at) { return emulator::read32(at); }
static inline float haste__cu_lds32f(uint32_t at) { return emulated_bits<float>(emulator::shared_pointer(at)); }
static inline void haste__cu_lds64(uint32_t *v, uint32_t at) { memcpy(v, emulator::shared_pointer(at), 8); }
static inline void haste__cu_lds128(uint32_t *v, uint32_t at) { memcpy(v, emulator::shared_pointer(at), 16); }
static inline void haste__cu_lds128(float *v, uint32_t at) { memcpy(v, emulator::shared_pointer(at), 16); }
static inline void haste__cu_sts128(uint32_t at, float a, float b, float c, float d) { const float v[4] = { a, b, c, d }; memcpy(emulator::shared_pointer(at), v, 16); }
static inline uint32_t haste__cu_round2(float low, float high, uint32_t noise)
{
    return __byte_perm(__float_as_uint(low) + (noise & 0xffffu), __float_as_uint(high) + (noise >> 16), 0x7632);
}
static inline void haste__cu_barrier_init(uint32_t barrier, int count)
{
    *emulator::mbarrier_at(barrier) = { (uint16_t)count, (uint16_t)count, 0 };
}
static inline void haste__cu_barrier_init_fence() {}
static inline void haste__cu_barrier_arrive(uint32_t barrier) { emulator::mbarrier_step(barrier, 1, 0); }
static inline void haste__cu_barrier_expect(uint32_t barrier, uint32_t bytes) { emulator::mbarrier_step(barrier, 0, (int)bytes); emulator::mbarrier_step(barrier, 1, 0); }
static inline void haste__cu_barrier_wait(uint32_t barrier, uint32_t parity) { emulator::mbarrier_wait(barrier, parity); }

static inline void haste__narrow_mma(float *d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3)
{
    const uint32_t a[4] = { a0, a1, a2, a3 };
    const float c[4] = { c0, c1, c2, c3 };
    emulator::mma(d, a, b0, b1, c);
}
static inline uint32_t haste__narrow_transpose(uint32_t piece) { return emulator::transpose8(piece); }
static inline void haste__narrow_wait_cluster(uint32_t barrier, uint32_t parity) { emulator::mbarrier_wait(barrier, parity); }
static inline uint32_t haste__narrow_of_rank(uint32_t address, uint32_t rank) { return (address & 0xffffff) | rank << 24; }
static inline void haste__narrow_arrive_other(uint32_t barrier) { emulator::mbarrier_step(barrier, 1, 0); }
static inline void haste__narrow_send4(uint32_t to, const float *v, uint32_t barrier) { emulator::deliver_later({ to, barrier, NULL, 16, { v[0], v[1], v[2], v[3] } }); }
static inline void haste__narrow_send(uint32_t to, float v, uint32_t barrier) { emulator::deliver_later({ to, barrier, NULL, 4, { v, 0, 0, 0 } }); }
static inline void haste__cu_cluster_sync(void)
{
    const unsigned phase = emulator::cluster_phase;
    if (++emulator::cluster_arrived == emulator::count) { emulator::cluster_arrived = 0; emulator::cluster_phase++; emulator::idle = 0; }
    else emulator::wait_until([=] { return emulator::cluster_phase != phase; });
}
static inline void haste__narrow_keep(int &) {}
template <typename T> static inline const T *haste__cu_again(const T *p) { return p; }
static inline void haste__narrow_collect(uint32_t &check, uint32_t w)
{
    if ((w & 0x7f80u) == 0x7f80u) check |= 0x7fffu;
    if ((w & 0x7f800000u) == 0x7f800000u) check |= 0x7fff0000u;
}

static inline void haste__wide_fence_async(void) {}
static inline void haste__wide_sts32(uint32_t at, uint32_t v) { memcpy(emulator::shared_pointer(at), &v, 4); }
static inline void haste__wide_bar(int id) { emulator::barrier(id, 128, 0); }
static inline void haste__wide_bulk_in(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier) { emulator::deliver_later({ to, barrier, from, (int)bytes, { 0, 0, 0, 0 } }); }
static inline void haste__wide_bulk_out(void *to, uint32_t from, uint32_t bytes)
{
    if (emulator::leaving_count == emulator::leaving_room) {
        emulator::leaving_room = emulator::leaving_room ? 2 * emulator::leaving_room : 256;
        emulator::leavings = (emulator::leaving *)realloc((void *)emulator::leavings, (size_t)emulator::leaving_room * sizeof(emulator::leaving));
    }
    emulator::leavings[emulator::leaving_count++] = { emulator::self, to, from, bytes };
}
static inline void haste__wide_bulk_batch() {}
static inline void haste__wide_bulk_read() { emulator::leave_now(); }
static inline void haste__wide_bulk_wait() { emulator::leave_now(); }
static inline void haste__wide_stmatrix(uint32_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    struct lane_of { uint32_t row, r[4]; } lane = { row, { a, b, c, d } };
    emulator::together(~0u, &lane, [](lane_of **all, uint32_t) {
        for (int j = 0; j < 4; j++) for (int l = 0; l < 32; l++)
            memcpy((char *)emulator::shared_pointer(all[8 * j + l / 4]->row) + l % 4 * 4, &all[l]->r[j], 4);
    });
}
template <int EIGHT, int MODE> static inline uint64_t haste__wide_matrix(uint32_t at)
{
    return (uint64_t)((at >> 4) + (64u << 16)) | (uint64_t)((uint32_t)EIGHT >> 4 | (uint32_t)MODE << 30) << 32;
}
static inline void haste__wide_wgmma_fence(void) {}
static inline void haste__wide_wgmma_commit(void) {}
template <int N> static inline void haste__wide_wgmma_wait(void) {}
template <int N, int TA, int TB> static inline void haste__wide_wgmma(float *d, uint64_t a, uint64_t b, int add) { emulator::wgmma(d, a, b, add, N, TA, TB); }

static inline uint32_t haste__cu_given_load4(const void *p, bool wanted) { return wanted ? *(const uint32_t *)p : 0; }
static inline uint2 haste__cu_given_load8(const void *p, bool wanted) { return wanted ? *(const uint2 *)p : uint2{ 0, 0 }; }
static inline uint4 haste__cu_given_load16(const void *p, bool wanted) { return wanted ? *(const uint4 *)p : uint4{ 0, 0, 0, 0 }; }
