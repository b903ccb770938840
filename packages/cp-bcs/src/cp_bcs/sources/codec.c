/* Reversible encodings of bytes: hexadecimal, base64, run lengths and back references. */
#include "corpus.h"

#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static size_t longest_match(const uint8_t *in, size_t size, size_t at, size_t *distance)
{
    size_t best = 0;

    for (size_t back = 1; back <= 256 && back <= at; back++) {
        size_t length = 0;

        while (length < 130 && at + length < size && in[at + length] == in[at + length - back])
            length++;
        if (length > best) {
            best = length;
            *distance = back;
        }
    }
    return best;
}

/* Convert pairs of hexadecimal digits to bytes, returning -1 for malformed text. */
long hex_decode(const char *text, uint8_t *out, size_t room)
{
    size_t count = 0;

    while (text[0] != '\0') {
        int high = hex_value(text[0]);
        int low = hex_value(text[1]);

        if (high < 0 || low < 0 || count == room)
            return -1;
        out[count++] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return (long)count;
}

/* Encode bytes as padded base64 text and return its length. */
size_t base64_encode(const uint8_t *data, size_t size, char *out)
{
    char *start = out;

    while (size > 0) {
        uint32_t group = (uint32_t)data[0] << 16;

        if (size > 1)
            group |= (uint32_t)data[1] << 8;
        if (size > 2)
            group |= data[2];
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = size > 1 ? alphabet[group >> 6 & 63] : '=';
        *out++ = size > 2 ? alphabet[group & 63] : '=';
        data += size > 2 ? 3 : size;
        size -= size > 2 ? 3 : size;
    }
    *out = '\0';
    return (size_t)(out - start);
}

/* Decode base64 text up to its padding or end, skipping line breaks. */
long base64_decode(const char *text, uint8_t *out, size_t room)
{
    uint32_t bits = 0;
    int pending = 0;
    size_t count = 0;

    for (; *text != '\0' && *text != '='; text++) {
        const char *place;

        if (*text == '\n' || *text == '\r')
            continue;
        place = strchr(alphabet, *text);
        if (place == NULL)
            return -1;
        bits = (bits & 0xFF) << 6 | (uint32_t)(place - alphabet);
        pending += 6;
        if (pending >= 8) {
            if (count == room)
                return -1;
            pending -= 8;
            out[count++] = (uint8_t)(bits >> pending);
        }
    }
    return (long)count;
}

/* Compress bytes into pairs of a run length and the repeated byte. */
size_t rle_encode(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
    size_t written = 0;
    size_t at = 0;

    while (at < size) {
        size_t run = 1;

        while (run < 255 && at + run < size && in[at + run] == in[at])
            run++;
        if (room - written < 2)
            return 0;
        out[written++] = (uint8_t)run;
        out[written++] = in[at];
        at += run;
    }
    return written;
}

/**
 * Compress bytes by replacing repeated parts with references to earlier output.
 *
 * A control byte below 128 is followed by that many literal bytes plus one. Any
 * other stands for a match of at least three bytes, and the byte after it tells
 * how far back the match begins.
 *
 * Returns the compressed size, or zero if the result does not fit.
 */
size_t lz_compress(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
    size_t at = 0, written = 0, pending = 0;

    for (;;) {
        size_t distance = 0;
        size_t length = at < size ? longest_match(in, size, at, &distance) : 0;

        if (pending > 0 && (at == size || length >= 3 || pending == 128)) {
            if (room - written < pending + 1)
                return 0;
            out[written++] = (uint8_t)(pending - 1);
            memcpy(out + written, in + at - pending, pending);
            written += pending;
            pending = 0;
        }
        if (at == size)
            return written;
        if (length < 3) {
            pending++;
            at++;
            continue;
        }
        if (room - written < 2)
            return 0;
        out[written++] = (uint8_t)(0x80 | (length - 3));
        out[written++] = (uint8_t)(distance - 1);
        at += length;
    }
}

/* Restore the bytes that were packed as literals and back references, checking all bounds. */
long lz_expand(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
    const uint8_t *end = in + size;
    size_t written = 0;

    while (in < end) {
        size_t control = *in++;
        size_t count = control < 0x80 ? control + 1 : (control & 0x7F) + 3;

        if (count > room - written)
            return -1;
        if (control < 0x80) {
            if (count > (size_t)(end - in))
                return -1;
            memcpy(out + written, in, count);
            in += count;
            written += count;
        } else {
            size_t back;

            if (in == end || (back = *in++ + (size_t)1) > written)
                return -1;
            for (; count > 0; count--, written++)
                out[written] = out[written - back];
        }
    }
    return (long)written;
}
