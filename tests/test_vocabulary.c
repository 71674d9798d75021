/* Words and names of the example programs (examples/vocabulary.h): what a word is, what is lower case, what numbers
   they get.

   cc -std=c99 -O2 -I. -Iexamples tests/test_vocabulary.c -o build/tests/test_vocabulary -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include "../examples/vocabulary.h"

static char message[DATA_ERROR];

/* The words of a text, each with a | behind it. */
static const char *split(const char *text, int64_t n, int64_t *invalid)
{
    static char out[1000];
    vocabulary v;
    int64_t words, i, k = 0;
    memset(&v, 0, sizeof v);
    *invalid = 0;
    words = vocabulary_split(&v, text, text + n, invalid);
    CHECK(words >= 0);
    for (i = 0; i < words; i++) {
        const int64_t length = v.word[i + 1] - 1 - v.word[i];
        CHECK(length > 0 && v.line[v.word[i + 1] - 1] == ' ');
        memcpy(out + k, v.line + v.word[i], (size_t)length);
        k += length;
        out[k++] = '|';
    }
    out[k] = 0;
    vocabulary_free(&v);
    return out;
}

static void is(const char *text, const char *want)
{
    int64_t invalid;
    const char *got = split(text, (int64_t)strlen(text), &invalid);
    if (!CHECK(strcmp(got, want) == 0) || !CHECK(invalid == 0))
        printf("    '%s' gives '%s', not '%s'\n", text, got, want);
}

static void words(void)
{
    is("", "");
    is(" \t,.;", "");
    is("a", "a|");
    is("Hello, World", "hello|world|");
    is("ABC_d 12 3.14 don't", "abc_d|12|3|14|don|t|");
    /* Ärger ÖL ß ẞ */
    is("\xc3\x84rger \xc3\x96L \xc3\x9f \xe1\xba\x9e", "\xc3\xa4rger|\xc3\xb6l|\xc3\x9f|\xc3\x9f|");
    /* ČŽ İ */
    is("\xc4\x8c\xc5\xbd \xc4\xb0", "\xc4\x8d\xc5\xbe|i|");
    /* ΣΟΦΟΣ σοφός: the same sigma */
    is("\xce\xa3\xce\x9f\xce\xa6\xce\x9f\xce\xa3 \xcf\x83\xce\xbf\xcf\x86\xcf\x8c\xcf\x82",
       "\xcf\x83\xce\xbf\xcf\x86\xce\xbf\xcf\x83|\xcf\x83\xce\xbf\xcf\x86\xcf\x8c\xcf\x83|");
    is("\xd0\x9c\xd0\xbe\xd1\x81\xd0\xba\xd0\xb2\xd0\xb0, \xd0\x81\xd0\x96",
       "\xd0\xbc\xd0\xbe\xd1\x81\xd0\xba\xd0\xb2\xd0\xb0|\xd1\x91\xd0\xb6|");   /* Москва, ЁЖ */
    /* “quoted”—dash «x» 5€ */
    is("\xe2\x80\x9cquoted\xe2\x80\x9d\xe2\x80\x94" "dash \xc2\xabx\xc2\xbb 5\xe2\x82\xac", "quoted|dash|x|5|");
    /* 日本abc語。 */
    is("\xe6\x97\xa5\xe6\x9c\xac" "abc\xe8\xaa\x9e\xe3\x80\x82", "\xe6\x97\xa5|\xe6\x9c\xac|abc|\xe8\xaa\x9e|");
    /* soft hyphen, joiner */
    is("co\xc2\xadop a\xe2\x80\x8d" "b \xe2\x80\x8d", "coop|ab|");
    /* an emoji; a letter of four bytes */
    is("a\xf0\x9f\x98\x80" "b \xf0\x90\x8e\xa0", "a|b|\xf0\x90\x8e\xa0|");
}

/* Bytes that are no UTF-8 separate, are counted, and harm nobody. */
static void invalid_utf8(void)
{
    static const struct { const char *text; int64_t n; const char *want; int64_t invalid; } example[] = {
        { "a\xff" "b", 3, "a|b|", 1 }, { "a\xc3", 2, "a|", 1 }, { "\xc0\xaf", 2, "", 2 },
        { "\xed\xa0\x80x", 4, "x|", 3 },
        { "\xf4\x90\x80\x80", 4, "", 4 }, { "\xe6\x97", 2, "", 2 }, { "\x80\x80", 2, "", 2 }, { "a\0b", 3, "a|b|", 0 },
        { "\xf0\x9f\x98", 3, "", 3 }, { "\xe0\x80\x80", 3, "", 3 }
    };
    size_t i;
    int64_t invalid;
    int k, wrong = 0;
    for (i = 0; i < sizeof example / sizeof example[0]; i++) {
        CHECK(strcmp(split(example[i].text, example[i].n, &invalid), example[i].want) == 0);
        CHECK(invalid == example[i].invalid);
    }
    /* any bytes: no more than there is room for, and all that comes out is UTF-8 again */
    for (k = 0; k < 5000; k++) {
        char text[40];
        const char *out;
        int length;
        for (i = 0; i < sizeof text; i++)
            text[i] = (char)(k % 2 ? check_random() & 255 : 0xe3 + check_random() % 3 * (i % 3 != 0 ? 0xff9d : 0));
        out = split(text, 1 + k % 40, &invalid);
        for (; *out; out += length)
            wrong += data_utf8(out, out + strlen(out), &length) == 0xffff;
    }
    CHECK(wrong == 0);
}

/* Lower case of the lower case is itself, is as long at most, and no symbol. */
static void lower_case(void)
{
    uint32_t code;
    int wrong = 0, changed = 0;
    for (code = 0; code < 0x110000; code++) {
        const uint32_t lower = data_lower(code);
        char a[4] = { 0 }, b[4] = { 0 };
        int length;
        if (code >= 0xd800 && code < 0xe000) continue;
        changed += lower != code;
        wrong += data_lower(lower) != lower || data_put_utf8(a, lower) > data_put_utf8(b, code);
        wrong += lower != code && (data_letter(code) != DATA_LETTER || data_letter(lower) != DATA_LETTER);
        wrong += data_utf8(b, b + data_put_utf8(b, code), &length) != code || length != data_put_utf8(b, code);
    }
    CHECK(wrong == 0);
    CHECK(changed == 798);   /* as many as Unicode has in these blocks, but for the few that would take more bytes */
    CHECK(data_lower('Z') == 'z' && data_lower('z') == 'z' && data_lower('[') == '[' && data_lower(0x1c5) == 0x1c6 &&
          data_lower(0x1c7) == 0x1c9);
    CHECK(data_lower(0x3c2) == 0x3c3 && data_lower(0x3d1) == 0x3d1 && data_lower(0x531) == 0x561 &&
          data_lower(0x52f) == 0x52f);
    CHECK(data_letter(0xd7) == DATA_SEPARATES && data_letter(0xd8) == DATA_LETTER && data_letter(0x4e00) == DATA_ALONE);
}

static void many_names(void)
{
    data_names names, again;
    char text[32];
    int32_t i, wrong = 0, n = 100000;
    memset(&names, 0, sizeof names);
    CHECK(data_find(&names, "x", 1) == -1);
    for (i = 0; i < n; i++) wrong += data_add(&names, text, snprintf(text, sizeof text, "name %ld", (long)i * 7)) != i;
    for (i = 0; i < n; i++) wrong += data_add(&names, text, snprintf(text, sizeof text, "name %ld", (long)i * 7)) != i;
    for (i = 0; i < n; i++)
        wrong += data_find(&names, text, snprintf(text, sizeof text, "name %ld", (long)i * 7 + 1)) != -1;
    CHECK(wrong == 0 && names.count == n);
    CHECK(data_add(&names, "", 0) == n && data_find(&names, "", 0) == n);
    CHECK(data_names_read(&again, names.text, (uint64_t)names.offset[names.count], 1, "words", "m", message));
    CHECK(again.count == n + 1 && data_find(&again, "name 14", 7) == 2 && data_find(&again, "", 0) == n);
    data_names_free(&again);
    data_names_free(&names);
    CHECK(!data_names_read(&names, "a\nb", 3, 1, "words", "m", message) &&
          strstr(message, "m: the last of the words has no end"));
    CHECK(!data_names_read(&names, "a\na\n", 4, 1, "words", "m", message) && strstr(message, "twice"));
    CHECK(data_names_read(&names, "a\na\n", 4, 0, "label names", "m", message) && names.count == 2);
    data_names_free(&names);
}

/* Runs of words as features: looked up, or hashed. */
static void ngrams(void)
{
    static const char text[] = "One two ONE";
    vocabulary v;
    int64_t invalid = 0;
    int32_t one, both;
    memset(&v, 0, sizeof v);
    CHECK(vocabulary_split(&v, text, text + strlen(text), &invalid) == 3);
    one = vocabulary_feature(&v, 0, 1);
    both = vocabulary_feature(&v, 0, 2);
    CHECK(one == 0 && both == 1 && vocabulary_feature(&v, 2, 1) == one && vocabulary_feature(&v, 1, 2) == 2);
    CHECK(data_find(&v.words, "one two", 7) == both && data_find(&v.words, "two one", 7) == 2);
    v.learnt = 1;
    CHECK(vocabulary_feature(&v, 0, 3) == -1 && v.words.count == 3);
    v.shape.hash_bits = 4;
    one = vocabulary_feature(&v, 0, 1);
    CHECK(one >= 0 && one < 16 && vocabulary_feature(&v, 2, 1) == one && vocabulary_feature(&v, 0, 3) < 16);
    v.shape.hash_bits = 30;
    CHECK(vocabulary_feature(&v, 0, 1) != vocabulary_feature(&v, 1, 1) &&
          vocabulary_feature(&v, 0, 2) != vocabulary_feature(&v, 1, 2));
    vocabulary_free(&v);
}

static void kept_vocabularies(void)
{
    vocabulary v;
    vocabulary_shape shape;
    memset(&shape, 0, sizeof shape);
    shape.version = VOCABULARY_VERSION;
    shape.text = shape.named = 1;
    shape.features = 2;
    shape.labels = 1;
    CHECK(vocabulary_read(&v, &shape, "a\nb\n", 4, "L\n", 2, "m", message) && v.learnt &&
          data_find(&v.labels, "L", 1) == 0);
    vocabulary_free(&v);
    CHECK(!vocabulary_read(&v, &shape, "a\n", 2, "L\n", 2, "m", message) &&
          strstr(message, "m: 1 words for 2 features"));
    CHECK(!vocabulary_read(&v, &shape, NULL, 0, "L\n", 2, "m", message) && strstr(message, "0 words for 2 features"));
    CHECK(!vocabulary_read(&v, &shape, "a\nb\n", 4, NULL, 0, "m", message) && strstr(message, "0 names for 1 labels"));
    CHECK(!vocabulary_read(&v, &shape, "a\nb", 3, "L\n", 2, "m", message));
    shape.version = 9;
    CHECK(!vocabulary_read(&v, &shape, "a\nb\n", 4, "L\n", 2, "m", message) && strstr(message, "version 9"));
    shape.version = VOCABULARY_VERSION;
    shape.hash_bits = 63;
    CHECK(!vocabulary_read(&v, &shape, "a\nb\n", 4, "L\n", 2, "m", message) && strstr(message, "makes no sense"));
    shape.hash_bits = 2;
    CHECK(!vocabulary_read(&v, &shape, NULL, 0, "L\n", 2, "m", message) && strstr(message, "2 features from hashes of 2"));
    shape.features = 4;
    CHECK(vocabulary_read(&v, &shape, NULL, 0, "L\n", 2, "m", message));
    vocabulary_free(&v);
    shape.features = 2;
    shape.hash_bits = 0;
    shape.separator = -1;
    CHECK(!vocabulary_read(&v, &shape, "a\nb\n", 4, "L\n", 2, "m", message));
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(words);
    RUN(invalid_utf8);
    RUN(lower_case);
    RUN(many_names);
    RUN(ngrams);
    RUN(kept_vocabularies);
    return check_end();
}
