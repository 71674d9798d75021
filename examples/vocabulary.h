/* vocabulary.h: words and names, for the example programs: which number each has, and how text becomes words. Needs
   reader.h.

   A word is a run of letters, digits, combining marks and underscores, in lower case; everything else separates. Text
   is UTF-8. A code point from U+0080 on is a letter unless it lies in a block of punctuation or symbols (data_letter
   names them). Han, Hiragana and Katakana are written without spaces: each of their characters is a word. Lower case is
   known for Latin, Greek (the final sigma becomes an ordinary one), Cyrillic, Armenian and Georgian; nothing is
   composed or decomposed, so that a letter and its combining accent are not the same as the one letter with an accent.
   The soft hyphen, the joiners U+200C and U+200D, and variation selectors vanish. Bytes that are
   no UTF-8 separate words and are counted.

   A feature is a word or, with `ngrams` > 1, also each run of 2 .. ngrams words, joined by a space. With hash_bits > 0
   there are 2^hash_bits features, and a hash of its text says which one a word is: nothing is looked up or kept, and
   some words share one. */
#ifndef VOCABULARY_H
#define VOCABULARY_H

#include "reader.h"

/* ---- >>names ------------------------------------------------------------------------------------------------- */

/* Names, numbered from 0 in the order in which they came. */
typedef struct data_names {
    int32_t   count;
    char     *text;       /* all of them, each with a newline after it: none contains one */
    int64_t  *offset;     /* [count + 1] where each begins */
    uint64_t *slot;       /* [slots] a hash table: the upper half of a hash, then the number + 1; 0: free */
    int64_t   slots;      /* a power of two, at least 2 * count */
    int64_t   text_room, offset_room;
} data_names;

static inline void data_names_free(data_names *names)
{
    free(names->text);
    free(names->offset);
    free(names->slot);
    memset(names, 0, sizeof *names);
}

static inline uint64_t data_hash(const char *text, int64_t n)
{
    const unsigned char *c = (const unsigned char *)text;
    uint64_t hash = UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)n, part;
    for (; n >= 8; n -= 8, c += 8) {   /* the same on machines of either byte order */
        part = c[0] | (uint64_t)c[1] << 8 | (uint64_t)c[2] << 16 | (uint64_t)c[3] << 24;
        part |= (uint64_t)c[4] << 32 | (uint64_t)c[5] << 40 | (uint64_t)c[6] << 48 | (uint64_t)c[7] << 56;
        hash = (hash ^ part) * UINT64_C(0xff51afd7ed558ccd);
        hash ^= hash >> 32;
    }
    for (part = 0; n > 0; n--) part = part << 8 | *c++;
    hash = (hash ^ part) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ hash >> 33;
}

static inline const char *data_name(const data_names *names, int32_t id, int64_t *length)
{
    *length = names->offset[id + 1] - names->offset[id] - 1;
    return names->text + names->offset[id];
}

/* The slot of a name, or the free one where it belongs. */
static inline uint64_t *data_slot(const data_names *names, const char *text, int64_t n, uint64_t hash)
{
    const uint64_t high = hash >> 32 << 32, mask = (uint64_t)names->slots - 1;
    uint64_t at = hash & mask;
    for (;; at = (at + 1) & mask) {
        const uint64_t slot = names->slot[at];
        if (slot == 0) break;
        if ((slot ^ high) >> 32 == 0) {
            int64_t length;
            const char *name = data_name(names, (int32_t)((slot & 0xffffffff) - 1), &length);
            if (length == n && memcmp(name, text, (size_t)n) == 0) break;
        }
    }
    return &names->slot[at];
}

/* The number of a name, or -1. */
static inline int32_t data_find(const data_names *names, const char *text, int64_t n)
{
    if (names->slots == 0) return -1;
    return (int32_t)(*data_slot(names, text, n, data_hash(text, n)) & 0xffffffff) - 1;
}

/* Appends a name without looking whether it is there. 0: out of memory. */
static inline int data_append(data_names *names, const char *text, int64_t n)
{
    const int64_t begin = names->count ? names->offset[names->count] : 0;
    if (names->count == INT32_MAX - 1 ||
        !data_reserve((void **)&names->text, &names->text_room, begin + n + 1, 1) ||
        !data_reserve((void **)&names->offset, &names->offset_room, names->count + 2, sizeof(int64_t))) return 0;
    names->offset[names->count] = begin;
    if (n > 0) memcpy(names->text + begin, text, (size_t)n);
    names->text[begin + n] = '\n';
    names->offset[++names->count] = begin + n + 1;
    return 1;
}

/* The number of a name, new or not; -1: out of memory. text is no part of names->text. */
static inline int32_t data_add(data_names *names, const char *text, int64_t n)
{
    uint64_t hash = data_hash(text, n), *slot;
    if (2 * ((int64_t)names->count + 1) > names->slots) {
        const int64_t slots = names->slots ? 2 * names->slots : 1024;
        int32_t i;
        uint64_t *grown = (uint64_t *)calloc((size_t)slots, sizeof(uint64_t));
        if (!grown) return -1;
        free(names->slot);
        names->slot = grown;
        names->slots = slots;
        for (i = 0; i < names->count; i++) {
            int64_t length;
            const char *name = data_name(names, i, &length);
            const uint64_t h = data_hash(name, length);
            uint64_t at = h & ((uint64_t)slots - 1);
            while (grown[at] != 0) at = (at + 1) & ((uint64_t)slots - 1);   /* all are different */
            grown[at] = h >> 32 << 32 | ((uint64_t)i + 1);
        }
    }
    slot = data_slot(names, text, n, hash);
    if (*slot != 0) return (int32_t)(*slot & 0xffffffff) - 1;
    if (!data_append(names, text, n)) return -1;
    *slot = hash >> 32 << 32 | (uint64_t)names->count;
    return names->count - 1;
}

/* Names from text as it is kept, one a line; `unique`: to be found, too. what and path are for messages. */
static inline int data_names_read(data_names *names, const char *text, uint64_t bytes, int unique, const char *what,
                                  const char *path, char *error)
{
    const char *end = text + bytes;
    memset(names, 0, sizeof *names);
    while (text < end) {
        const char *newline = (const char *)memchr(text, '\n', (size_t)(end - text));
        const int32_t count = names->count;
        if (!newline) { data_fail(error, "%s: the last of the %s has no end", path, what); break; }
        if (unique ? data_add(names, text, newline - text) < 0 : !data_append(names, text, newline - text)) {
            data_fail(error, "%s: out of memory for the %s", path, what);
            break;
        }
        if (names->count == count) { data_fail(error, "%s: one of the %s is there twice", path, what); break; }
        text = newline + 1;
    }
    if (text >= end) return 1;
    data_names_free(names);
    return 0;
}

/* ---- >>letters ----------------------------------------------------------------------------------------------- */

/* The code point at p, and its bytes in *length: one, and 0xffff, where it is no UTF-8. */
static inline uint32_t data_utf8(const char *p, const char *end, int *length)
{
    const unsigned char *c = (const unsigned char *)p;
    const int64_t left = end - p;
    *length = 1;
    if (c[0] < 0x80) return c[0];
    if (c[0] >= 0xc2 && c[0] < 0xe0 && left > 1 && (c[1] & 0xc0) == 0x80) {
        *length = 2;
        return (uint32_t)(c[0] & 31) << 6 | (c[1] & 63);
    }
    if (c[0] >= 0xe0 && c[0] < 0xf0 && left > 2 && (c[1] & 0xc0) == 0x80 && (c[2] & 0xc0) == 0x80) {
        const uint32_t code = (uint32_t)(c[0] & 15) << 12 | (uint32_t)(c[1] & 63) << 6 | (c[2] & 63);
        if (code < 0x800 || (code >= 0xd800 && code < 0xe000)) return 0xffff;
        *length = 3;
        return code;
    }
    if (c[0] >= 0xf0 && c[0] < 0xf5 && left > 3 && (c[1] & 0xc0) == 0x80 && (c[2] & 0xc0) == 0x80 &&
        (c[3] & 0xc0) == 0x80) {
        const uint32_t high = (uint32_t)(c[0] & 7) << 18 | (uint32_t)(c[1] & 63) << 12;
        const uint32_t code = high | (uint32_t)(c[2] & 63) << 6 | (c[3] & 63);
        if (code < 0x10000 || code > 0x10ffff) return 0xffff;
        *length = 4;
        return code;
    }
    return 0xffff;
}

/* Writes a code point; returns its bytes. */
static inline int data_put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) { out[0] = (char)code; return 1; }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63));
    out[3] = (char)(0x80 | (code & 63));
    return 4;
}

/* Where an upper-case letter has its lower-case one: in [first, last], every step-th letter from the first on, moved by
   add. */
typedef struct data_case { uint32_t first, last, step; int32_t add; } data_case;

static inline uint32_t data_lower(uint32_t code)
{
    static const data_case table[] = {
        { 0x41, 0x5a, 1, 32 }, { 0xc0, 0xd6, 1, 32 }, { 0xd8, 0xde, 1, 32 }, { 0x100, 0x12e, 2, 1 },
        { 0x130, 0x130, 1, -199 }, { 0x132, 0x136, 2, 1 }, { 0x139, 0x147, 2, 1 }, { 0x14a, 0x176, 2, 1 },
        { 0x178, 0x178, 1, -121 }, { 0x179, 0x17d, 2, 1 }, { 0x181, 0x181, 1, 210 }, { 0x182, 0x184, 2, 1 },
        { 0x186, 0x186, 1, 206 }, { 0x187, 0x187, 1, 1 }, { 0x189, 0x18a, 1, 205 }, { 0x18b, 0x18b, 1, 1 },
        { 0x18e, 0x18e, 1, 79 }, { 0x18f, 0x18f, 1, 202 }, { 0x190, 0x190, 1, 203 }, { 0x191, 0x191, 1, 1 },
        { 0x193, 0x193, 1, 205 }, { 0x194, 0x194, 1, 207 }, { 0x196, 0x196, 1, 211 }, { 0x197, 0x197, 1, 209 },
        { 0x198, 0x198, 1, 1 }, { 0x19c, 0x19c, 1, 211 }, { 0x19d, 0x19d, 1, 213 }, { 0x19f, 0x19f, 1, 214 },
        { 0x1a0, 0x1a4, 2, 1 }, { 0x1a6, 0x1a6, 1, 218 }, { 0x1a7, 0x1a7, 1, 1 }, { 0x1a9, 0x1a9, 1, 218 },
        { 0x1ac, 0x1ac, 1, 1 }, { 0x1ae, 0x1ae, 1, 218 }, { 0x1af, 0x1af, 1, 1 }, { 0x1b1, 0x1b2, 1, 217 },
        { 0x1b3, 0x1b5, 2, 1 }, { 0x1b7, 0x1b7, 1, 219 }, { 0x1b8, 0x1b8, 1, 1 }, { 0x1bc, 0x1bc, 1, 1 },
        { 0x1c4, 0x1ca, 3, 2 }, { 0x1c5, 0x1cb, 3, 1 }, { 0x1cd, 0x1db, 2, 1 }, { 0x1de, 0x1ee, 2, 1 },
        { 0x1f1, 0x1f1, 1, 2 }, { 0x1f2, 0x1f4, 2, 1 }, { 0x1f6, 0x1f6, 1, -97 }, { 0x1f7, 0x1f7, 1, -56 },
        { 0x1f8, 0x21e, 2, 1 }, { 0x220, 0x220, 1, -130 }, { 0x222, 0x232, 2, 1 }, { 0x23b, 0x23b, 1, 1 },
        { 0x23d, 0x23d, 1, -163 }, { 0x241, 0x241, 1, 1 }, { 0x243, 0x243, 1, -195 }, { 0x244, 0x244, 1, 69 },
        { 0x245, 0x245, 1, 71 }, { 0x246, 0x24e, 2, 1 }, { 0x370, 0x372, 2, 1 }, { 0x376, 0x376, 1, 1 },
        { 0x37f, 0x37f, 1, 116 }, { 0x386, 0x386, 1, 38 }, { 0x388, 0x38a, 1, 37 }, { 0x38c, 0x38c, 1, 64 },
        { 0x38e, 0x38f, 1, 63 }, { 0x391, 0x3a1, 1, 32 }, { 0x3a3, 0x3ab, 1, 32 }, { 0x3c2, 0x3c2, 1, 1 },
        { 0x3cf, 0x3cf, 1, 8 }, { 0x3d8, 0x3ee, 2, 1 }, { 0x3f4, 0x3f4, 1, -60 }, { 0x3f7, 0x3f7, 1, 1 },
        { 0x3f9, 0x3f9, 1, -7 }, { 0x3fa, 0x3fa, 1, 1 }, { 0x3fd, 0x3ff, 1, -130 }, { 0x400, 0x40f, 1, 80 },
        { 0x410, 0x42f, 1, 32 }, { 0x460, 0x480, 2, 1 }, { 0x48a, 0x4be, 2, 1 }, { 0x4c0, 0x4c0, 1, 15 },
        { 0x4c1, 0x4cd, 2, 1 }, { 0x4d0, 0x52e, 2, 1 }, { 0x531, 0x556, 1, 48 }, { 0x10a0, 0x10c5, 1, 7264 },
        { 0x1c90, 0x1cba, 1, -3008 }, { 0x1cbd, 0x1cbf, 1, -3008 }, { 0x1e00, 0x1e94, 2, 1 },
        { 0x1e9e, 0x1e9e, 1, -7615 }, { 0x1ea0, 0x1efe, 2, 1 }, { 0x1f08, 0x1f0f, 1, -8 }, { 0x1f18, 0x1f1d, 1, -8 },
        { 0x1f28, 0x1f2f, 1, -8 }, { 0x1f38, 0x1f3f, 1, -8 }, { 0x1f48, 0x1f4d, 1, -8 }, { 0x1f59, 0x1f5f, 2, -8 },
        { 0x1f68, 0x1f6f, 1, -8 }, { 0x1f88, 0x1f8f, 1, -8 }, { 0x1f98, 0x1f9f, 1, -8 }, { 0x1fa8, 0x1faf, 1, -8 },
        { 0x1fb8, 0x1fb9, 1, -8 }, { 0x1fba, 0x1fbb, 1, -74 }, { 0x1fbc, 0x1fbc, 1, -9 }, { 0x1fc8, 0x1fcb, 1, -86 },
        { 0x1fcc, 0x1fcc, 1, -9 }, { 0x1fd8, 0x1fd9, 1, -8 }, { 0x1fda, 0x1fdb, 1, -100 }, { 0x1fe8, 0x1fe9, 1, -8 },
        { 0x1fea, 0x1feb, 1, -112 }, { 0x1fec, 0x1fec, 1, -7 }, { 0x1ff8, 0x1ff9, 1, -128 },
        { 0x1ffa, 0x1ffb, 1, -126 }, { 0x1ffc, 0x1ffc, 1, -9 }, { 0xff21, 0xff3a, 1, 32 }
    };
    int low = 0, high = (int)(sizeof table / sizeof table[0]) - 1, k;
    while (low < high) {   /* the last range that begins at or before the code */
        const int middle = (low + high + 1) / 2;
        if (table[middle].first <= code) low = middle;
        else high = middle - 1;
    }
    for (k = 0; k < 2 && low >= 0; k++, low--)   /* two, since those of U+01C4 and U+01C5 overlap */
        if (code >= table[low].first && code <= table[low].last && (code - table[low].first) % table[low].step == 0)
            return (uint32_t)((int32_t)code + table[low].add);
    return code;
}

enum { DATA_SEPARATES, DATA_LETTER, DATA_ALONE, DATA_IGNORED };

/* What a code point is: none of a word, part of one, a word, or nothing at all. */
static inline int data_letter(uint32_t code)
{
    static const uint32_t symbols[][2] = {   /* punctuation, symbols, private use */
        { 0x00, 0x2f }, { 0x3a, 0x40 }, { 0x5b, 0x5e }, { 0x60, 0x60 }, { 0x7b, 0xa9 }, { 0xab, 0xb1 },
        { 0xb4, 0xb4 }, { 0xb6, 0xb8 }, { 0xbb, 0xbb }, { 0xbf, 0xbf }, { 0xd7, 0xd7 }, { 0xf7, 0xf7 },
        { 0x2c2, 0x2c5 }, { 0x2d2, 0x2df }, { 0x375, 0x375 }, { 0x37e, 0x37e }, { 0x384, 0x385 }, { 0x387, 0x387 },
        { 0x482, 0x482 }, { 0x55a, 0x55f }, { 0x589, 0x58f }, { 0x5be, 0x5be }, { 0x5c0, 0x5c0 }, { 0x5c3, 0x5c3 },
        { 0x5c6, 0x5c6 }, { 0x5f3, 0x5f4 }, { 0x600, 0x60f }, { 0x61b, 0x61f }, { 0x66a, 0x66d }, { 0x6d4, 0x6d4 },
        { 0x6dd, 0x6de }, { 0x6e9, 0x6e9 }, { 0x6fd, 0x6fe }, { 0x964, 0x965 }, { 0x970, 0x970 }, { 0xe3f, 0xe3f },
        { 0xe4f, 0xe4f }, { 0xe5a, 0xe5b }, { 0x10fb, 0x10fb }, { 0x1680, 0x1680 }, { 0x2000, 0x206f },
        { 0x207a, 0x207e }, { 0x208a, 0x208e }, { 0x20a0, 0x20cf }, { 0x2100, 0x2bff }, { 0x2e00, 0x2e7f },
        { 0x2ff0, 0x3004 }, { 0x3008, 0x3020 }, { 0x3030, 0x3030 }, { 0x3036, 0x3037 }, { 0x303d, 0x3040 },
        { 0x30a0, 0x30a0 }, { 0x30fb, 0x30fb }, { 0x3190, 0x33ff }, { 0x4dc0, 0x4dff }, { 0xe000, 0xf8ff },
        { 0xfe10, 0xfe1f }, { 0xfe30, 0xfe6f }, { 0xfeff, 0xff0f }, { 0xff1a, 0xff20 }, { 0xff3b, 0xff40 },
        { 0xff5b, 0xff65 }, { 0xffe0, 0xffff }, { 0x1f000, 0x1faff }, { 0xe0000, 0xe0fff }, { 0xf0000, 0x10ffff }
    };
    static const uint32_t alone[][2] = {
        { 0x3005, 0x3007 }, { 0x3041, 0x30ff }, { 0x31f0, 0x31ff }, { 0x3400, 0x9fff }, { 0xf900, 0xfaff },
        { 0xff66, 0xff9f }, { 0x1b000, 0x1b16f }, { 0x20000, 0x3ffff }
    };
    int low = 0, high = (int)(sizeof symbols / sizeof symbols[0]) - 1, i;
    if (code == 0xad || code == 0x200c || code == 0x200d || (code >= 0xfe00 && code <= 0xfe0f)) return DATA_IGNORED;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (symbols[middle][0] <= code) low = middle;
        else high = middle - 1;
    }
    if (code <= symbols[low][1]) return DATA_SEPARATES;
    for (i = 0; i < (int)(sizeof alone / sizeof alone[0]) && alone[i][0] <= code; i++)
        if (code <= alone[i][1]) return DATA_ALONE;
    return DATA_LETTER;
}

/* ---- >>vocabulary -------------------------------------------------------------------------------------------- */

#define VOCABULARY_VERSION 1
#define VOCABULARY_NGRAMS  8
#define VOCABULARY_BITS    30

/* What is kept of it beside words and names. */
typedef struct vocabulary_shape {
    int64_t version;
    int64_t text;                /* 1: documents are text; 0: ids of features with values */
    int64_t format;              /* of TRAIN: formats.h */
    int64_t ngrams, hash_bits;
    int64_t named;               /* 1: labels in files are names; 0: ids */
    int64_t separator;           /* between labels in a column: formats.h */
    int64_t features, labels;    /* V, L */
} vocabulary_shape;

/* Learnt from the training documents, then fixed. Zeroed, with ngrams and hash_bits set where wanted, it is ready to
   learn. */
typedef struct vocabulary {
    vocabulary_shape shape;
    int              learnt;
    int              grows;      /* what is not known gets a number of its own, though it is learnt */
    /* [V] of text that is not hashed; of ids where only few of very many occur; else empty */
    data_names       words;
    data_names       labels;     /* [L], or empty: labels are ids without names */
    char            *line;       /* a document's words, separated by single spaces */
    int64_t         *word;       /* where each begins; the next one begins behind a space */
    int64_t          line_room, word_room;
} vocabulary;

static inline void vocabulary_free(vocabulary *v)
{
    data_names_free(&v->words);
    data_names_free(&v->labels);
    free(v->line);
    free(v->word);
    memset(v, 0, sizeof *v);
}

/* Splits text into v->line and v->word. Returns the number of words, and adds bytes that are no UTF-8 to *invalid; -1:
   out of memory. */
static inline int64_t vocabulary_split(vocabulary *v, const char *p, const char *end, int64_t *invalid)
{
    int64_t words = 0;
    int inside = 0;   /* a word */
    char *out;
    /* The longest that can come of it are characters of three bytes, each a word; the most words, letters between
       separators. */
    if (!data_reserve((void **)&v->line, &v->line_room, 2 * (end - p) + 2, 1) ||
        !data_reserve((void **)&v->word, &v->word_room, (end - p) / 2 + 2, sizeof(int64_t))) return -1;
    out = v->line;
    while (p < end) {
        unsigned char c = (unsigned char)*p;
        uint32_t code;
        int length, kind;
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || (c >= 'A' && c <= 'Z')) {
            if (!inside) v->word[words++] = out - v->line;
            inside = 1;
            *out++ = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
            p++;
            continue;
        }
        if (c < 0x80) { code = c; kind = DATA_SEPARATES; length = 1; }
        else {
            code = data_utf8(p, end, &length);
            kind = data_letter(code);
            if (code == 0xffff && length == 1) ++*invalid;
        }
        p += length;
        if (kind == DATA_IGNORED) continue;
        if (kind == DATA_LETTER && inside) { out += data_put_utf8(out, data_lower(code)); continue; }
        if (inside) *out++ = ' ';
        inside = kind == DATA_LETTER;
        if (kind == DATA_SEPARATES) continue;
        v->word[words++] = out - v->line;
        out += data_put_utf8(out, data_lower(code));
        if (kind == DATA_ALONE) *out++ = ' ';
    }
    if (inside) *out++ = ' ';
    v->word[words] = out - v->line;
    return words;
}

/* The features of the text that was split: run `length` words from word i on. -1: not known; -2: out of memory. */
static inline int32_t vocabulary_feature(vocabulary *v, int64_t i, int length)
{
    const char *text = v->line + v->word[i];
    const int64_t n = v->word[i + length] - 1 - v->word[i];
    int32_t id;
    if (v->shape.hash_bits) return (int32_t)(data_hash(text, n) & ((UINT64_C(1) << v->shape.hash_bits) - 1));
    if (v->learnt && !v->grows) return data_find(&v->words, text, n);
    id = data_add(&v->words, text, n);
    return id < 0 ? -2 : id;
}

/* Numbers are numbers: ids of features and labels, without names. */
static inline void vocabulary_ids(vocabulary *v, int64_t features, int64_t labels)
{
    memset(v, 0, sizeof *v);
    v->shape.version = VOCABULARY_VERSION;
    v->shape.features = features;
    v->shape.labels = labels;
    v->learnt = 1;
}

/* Takes a vocabulary from what a model keeps: the shape, and words and names as text (NULL: none). */
static inline int vocabulary_read(vocabulary *v, const vocabulary_shape *shape, const char *words, uint64_t word_bytes,
                                  const char *labels, uint64_t label_bytes, const char *path, char *error)
{
    memset(v, 0, sizeof *v);
    v->shape = *shape;
    v->learnt = 1;
    if (shape->version != VOCABULARY_VERSION)
        return data_fail(error, "%s: vocabulary of version %lld; expected %d", path, (long long)shape->version,
                         VOCABULARY_VERSION);
    if (shape->ngrams < 0 || shape->ngrams > VOCABULARY_NGRAMS || shape->text < 0 || shape->text > 1 ||
        shape->hash_bits < 0 || shape->hash_bits > VOCABULARY_BITS || shape->named < 0 || shape->named > 1 ||
        shape->separator < 0 || shape->separator > 5 ||
        shape->format < 0 || shape->format > 6 ||
        shape->features < 0 || shape->features > INT32_MAX || shape->labels < 0 || shape->labels > INT32_MAX)
        return data_fail(error, "%s: a vocabulary that makes no sense", path);
    if (words && !data_names_read(&v->words, words, word_bytes, 1, "words", path, error)) return 0;
    if (labels && !data_names_read(&v->labels, labels, label_bytes, (int)shape->named, "label names", path, error)) {
        vocabulary_free(v);
        return 0;
    }
    if ((words || (shape->text && !shape->hash_bits)) && v->words.count != shape->features)
        data_fail(error, "%s: %ld words for %lld features", path, (long)v->words.count, (long long)shape->features);
    else if (shape->text && shape->hash_bits && shape->features != INT64_C(1) << shape->hash_bits)
        data_fail(error, "%s: %lld features from hashes of %lld bits", path, (long long)shape->features,
                  (long long)shape->hash_bits);
    else if ((labels || shape->named) && v->labels.count != shape->labels)
        data_fail(error, "%s: %ld names for %lld labels", path, (long)v->labels.count, (long long)shape->labels);
    else return 1;
    vocabulary_free(v);
    return 0;
}

#endif /* VOCABULARY_H */
