/* Encoding, decoding and checking of UTF-8. */
#include "corpus.h"

#include <string.h>

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

/**
 * utf8_encode: Write the UTF-8 form of a code point.
 *
 * @param code  code point to encode
 * @param out   room for four bytes
 * @return the number of bytes written, or 0 if the code point is not allowed
 */
size_t utf8_encode(uint32_t code, unsigned char out[4])
{
    if (code < 0x80) {
        out[0] = (unsigned char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (unsigned char)(0xC0 | code >> 6);
        out[1] = (unsigned char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        if (code >= 0xD800 && code <= 0xDFFF)
            return 0;
        out[0] = (unsigned char)(0xE0 | code >> 12);
        out[1] = (unsigned char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (unsigned char)(0x80 | (code & 0x3F));
        return 3;
    }
    if (code > 0x10FFFF)
        return 0;
    out[0] = (unsigned char)(0xF0 | code >> 18);
    out[1] = (unsigned char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (unsigned char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (unsigned char)(0x80 | (code & 0x3F));
    return 4;
}

/**
 * Decode the first code point of a byte sequence.
 *
 * Overlong forms, surrogates, values above the Unicode range and sequences cut
 * short are all refused.
 *
 * The return value is the length of the sequence. It is zero for a refused
 * sequence, and then the code point is left alone.
 */
size_t utf8_decode(const unsigned char *bytes, size_t size, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t value;
    size_t length;

    if (size == 0)
        return 0;
    if (bytes[0] < 0x80) {
        *code = bytes[0];
        return 1;
    }
    if (bytes[0] < 0xC0 || bytes[0] > 0xF7)
        return 0;
    length = bytes[0] >= 0xF0 ? 4 : bytes[0] >= 0xE0 ? 3 : 2;
    if (length > size)
        return 0;
    value = bytes[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (!is_continuation(bytes[i]))
            return 0;
        value = value << 6 | (bytes[i] & 0x3Fu);
    }
    if (value < least[length] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
        return 0;
    *code = value;
    return length;
}

/* Check that a whole buffer consists of well-formed UTF-8. */
bool utf8_validate(const unsigned char *bytes, size_t size)
{
    uint32_t code;

    while (size > 0) {
        size_t step = utf8_decode(bytes, size, &code);

        if (step == 0)
            return false;
        bytes += step;
        size -= step;
    }
    return true;
}

/* Count the code points of a UTF-8 string by counting all bytes but continuation bytes. */
size_t utf8_length(const char *text)
{
    size_t count = 0;

    for (; *text != '\0'; text++)
        count += !is_continuation((unsigned char)*text);
    return count;
}

/* Step back from a position in a UTF-8 string to the start of the previous character. */
const char *utf8_previous(const char *start, const char *at)
{
    if (at == start)
        return NULL;
    do {
        at--;
    } while (at > start && is_continuation((unsigned char)*at));
    return at;
}

/* Convert Latin-1 bytes to UTF-8, for which each byte needs at most two. */
size_t utf8_from_latin1(const unsigned char *in, size_t size, unsigned char *out)
{
    unsigned char *start = out;

    while (size-- > 0) {
        if (*in < 0x80) {
            *out++ = *in++;
        } else {
            *out++ = *in >= 0xC0 ? 0xC3 : 0xC2;
            *out++ = *in++ & 0xBF;
        }
    }
    return (size_t)(out - start);
}

/* Translate UTF-8 into UTF-16 units, using surrogate pairs and stopping at the first error. */
size_t utf8_to_utf16(const unsigned char *bytes, size_t size, uint16_t *out)
{
    size_t units = 0;
    uint32_t code;
    size_t step;

    while ((step = utf8_decode(bytes, size, &code)) > 0) {
        if (code >= 0x10000) {
            code -= 0x10000;
            out[units++] = (uint16_t)(0xD800 | code >> 10);
            out[units++] = (uint16_t)(0xDC00 | (code & 0x3FF));
        } else {
            out[units++] = (uint16_t)code;
        }
        bytes += step;
        size -= step;
    }
    return units;
}

/* Overwrite every byte that is not part of valid UTF-8 with a question mark. */
size_t utf8_repair(unsigned char *bytes, size_t size)
{
    size_t repaired = 0;
    size_t at = 0;
    uint32_t code;

    while (at < size) {
        size_t step = utf8_decode(bytes + at, size - at, &code);

        if (step == 0) {
            bytes[at++] = '?';
            repaired++;
        }
        at += step;
    }
    return repaired;
}

// Shorten a string to a byte limit without cutting a multibyte character apart.
void utf8_truncate(char *text, size_t max_bytes)
{
    if (strlen(text) <= max_bytes)
        return;
    while (max_bytes > 0 && is_continuation((unsigned char)text[max_bytes]))
        max_bytes--;
    text[max_bytes] = '\0';
}
