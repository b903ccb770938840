/* Checksums, hashes and check digits. */
#include "corpus.h"

#include <string.h>

static uint32_t crc_table[256];

static void fill_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;

        for (int bit = 0; bit < 8; bit++)
            rest = rest & 1 ? rest >> 1 ^ 0xEDB88320u : rest >> 1;
        crc_table[byte] = rest;
    }
}

/*
 * sum_crc32: Compute the 32-bit cyclic redundancy check used by zip files. The
 * table of the 256 byte remainders is made on the first call.
 */
uint32_t sum_crc32(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xFFFFFFFFu;

    if (crc_table[1] == 0)
        fill_crc_table();
    while (size-- > 0)
        crc = crc >> 8 ^ crc_table[(crc ^ *data++) & 0xFF];
    return ~crc;
}

/* Compute a 16-bit CCITT checksum bit by bit, highest bit first. */
uint32_t sum_crc16(const uint8_t *data, size_t size)
{
    uint16_t crc = 0xFFFF;

    for (size_t i = 0; i < size; i++) {
        crc ^= (uint16_t)(data[i] << 8);
        for (int bit = 0; bit < 8; bit++) {
            if (crc & 0x8000)
                crc = (uint16_t)(crc << 1 ^ 0x1021);
            else
                crc = (uint16_t)(crc << 1);
        }
    }
    return crc;
}

/* Compute the Adler checksum, reducing the two sums once per large chunk. */
uint32_t sum_adler32(const uint8_t *data, size_t size)
{
    const size_t chunk = 5000;
    uint32_t low = 1;
    uint32_t high = 0;

    while (size > 0) {
        size_t part = size < chunk ? size : chunk;

        size -= part;
        while (part-- > 0) {
            low += *data++;
            high += low;
        }
        low %= 65521;
        high %= 65521;
    }
    return high << 16 | low;
}

/* Compute Fletcher's 16-bit checksum from two running sums modulo 255. */
uint32_t sum_fletcher16(const uint8_t *data, size_t size)
{
    unsigned first = 0;
    unsigned second = 0;

    for (const uint8_t *end = data + size; data != end; data++) {
        first = (first + *data) % 255;
        second = (second + first) % 255;
    }
    return second << 8 | first;
}

/* Hash a block of bytes into 64 bits with the FNV-1a method. */
uint64_t sum_fnv1a(const uint8_t *data, size_t size)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325);

    while (size-- > 0) {
        hash ^= *data++;
        hash *= UINT64_C(0x100000001B3);
    }
    return hash;
}

/**
 * Form the ones' complement checksum that Internet protocol headers carry.
 *
 * @param data  bytes, taken in pairs with the more significant byte first
 * @param size  number of bytes; an odd last byte is padded with zero
 * @return the complemented 16-bit sum
 */
uint32_t sum_internet(const uint8_t *data, size_t size)
{
    uint32_t sum = 0;

    for (; size >= 2; size -= 2, data += 2) {
        sum += (uint32_t)data[0] << 8 | data[1];
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    if (size == 1)
        sum += (uint32_t)data[0] << 8;
    sum = (sum & 0xFFFF) + (sum >> 16);
    return ~sum & 0xFFFF;
}

/* Verify the Luhn check digit of a card number, allowing spaces between the digits. */
bool sum_luhn_valid(const char *digits)
{
    size_t at = strlen(digits);
    int total = 0;
    int seen = 0;

    while (at-- > 0) {
        int digit = digits[at] - '0';

        if (digits[at] == ' ')
            continue;
        if (digit < 0 || digit > 9)
            return false;
        if (seen++ % 2 == 1) {
            digit *= 2;
            if (digit > 9)
                digit -= 9;
        }
        total += digit;
    }
    return seen > 1 && total % 10 == 0;
}

// Derive the thirteenth digit of an article number from its first twelve.
int sum_ean13_digit(const char *digits)
{
    int total = 0;

    for (int i = 0; i < 12; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return -1;
        total += (digits[i] - '0') * (i % 2 == 0 ? 1 : 3);
    }
    return (10 - total % 10) % 10;
}

/* Select a checksum method by its name and apply it to a block of bytes. */
bool sum_by_name(const char *name, const uint8_t *data, size_t size, uint32_t *result)
{
    static const struct {
        const char *name;
        uint32_t (*function)(const uint8_t *data, size_t size);
    } methods[] = {
        {"crc32", sum_crc32},           {"crc16", sum_crc16},       {"adler32", sum_adler32},
        {"fletcher16", sum_fletcher16}, {"internet", sum_internet},
    };

    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(methods[i].name, name) == 0) {
            *result = methods[i].function(data, size);
            return true;
        }
    }
    return false;
}
