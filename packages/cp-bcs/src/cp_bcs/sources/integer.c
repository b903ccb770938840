/* Integer arithmetic and bit manipulation. */
#include "corpus.h"

#include <string.h>

/* Count the bits of a 64-bit word that are set. */
int bits_count(uint64_t word)
{
    int count = 0;

    for (; word != 0; word &= word - 1)
        count++;
    return count;
}

/* Mirror a 32-bit word so that its lowest bit becomes the highest. */
uint32_t bits_reverse(uint32_t word)
{
    word = (word >> 1 & 0x55555555u) | (word & 0x55555555u) << 1;
    word = (word >> 2 & 0x33333333u) | (word & 0x33333333u) << 2;
    word = (word >> 4 & 0x0F0F0F0Fu) | (word & 0x0F0F0F0Fu) << 4;
    word = (word >> 8 & 0x00FF00FFu) | (word & 0x00FF00FFu) << 8;
    return word >> 16 | word << 16;
}

/* Find the index of the highest set bit by halving, or -1 for zero. */
int bits_highest(uint32_t word)
{
    int index = 0;

    if (word == 0)
        return -1;
    for (int half = 16; half > 0; half /= 2) {
        if (word >> half != 0) {
            word >>= half;
            index += half;
        }
    }
    return index;
}

/* Interleave the bits of two coordinates into one Morton code. */
uint64_t bits_interleave(uint32_t x, uint32_t y)
{
    static const uint64_t masks[] = {
        UINT64_C(0x0000FFFF0000FFFF), UINT64_C(0x00FF00FF00FF00FF), UINT64_C(0x0F0F0F0F0F0F0F0F),
        UINT64_C(0x3333333333333333), UINT64_C(0x5555555555555555),
    };
    uint64_t even = x;
    uint64_t odd = y;

    for (int i = 0; i < 5; i++) {
        even = (even | even << (16 >> i)) & masks[i];
        odd = (odd | odd << (16 >> i)) & masks[i];
    }
    return even | odd << 1;
}

/* Write the lowest bits of a word as zeros and ones with gaps between groups of four. */
void bits_to_text(uint32_t word, int width, char *out)
{
    for (int bit = width - 1; bit >= 0; bit--) {
        *out++ = word >> bit & 1 ? '1' : '0';
        if (bit % 4 == 0 && bit > 0)
            *out++ = ' ';
    }
    *out = '\0';
}

/* Compute the greatest common divisor of two numbers by repeated division. */
unsigned int_gcd(unsigned a, unsigned b)
{
    while (b != 0) {
        unsigned rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

/* Raise a number to a power modulo another by squaring and multiplying. */
uint32_t int_power_mod(uint32_t base, uint32_t exponent, uint32_t modulus)
{
    uint64_t square = base % modulus;
    uint64_t result = 1 % modulus;

    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1)
            result = result * square % modulus;
        square = square * square % modulus;
    }
    return (uint32_t)result;
}

/* Take the square root of an integer, rounded down, one result bit at a time. */
uint32_t int_sqrt(uint32_t value)
{
    uint32_t root = 0;

    for (uint32_t place = UINT32_C(1) << 30; place > 0; place >>= 2) {
        if (value >= root + place) {
            value -= root + place;
            root = root / 2 + place;
        } else {
            root /= 2;
        }
    }
    return root;
}

/* Test by trial division whether a number is prime. */
bool int_is_prime(uint32_t value)
{
    if (value < 4)
        return value > 1;
    if (value % 2 == 0 || value % 3 == 0)
        return false;
    for (uint32_t divisor = 5; divisor <= value / divisor; divisor += 6) {
        if (value % divisor == 0 || value % (divisor + 2) == 0)
            return false;
    }
    return true;
}

/* Mark all composite numbers below a limit in an array and return the number of primes. */
size_t int_sieve(uint8_t *composite, size_t limit)
{
    size_t primes = 0;

    memset(composite, 0, limit);
    for (size_t n = 2; n < limit; n++) {
        if (composite[n])
            continue;
        primes++;
        for (size_t multiple = 2 * n; multiple < limit; multiple += n)
            composite[multiple] = 1;
    }
    return primes;
}

/* Find the multiplicative inverse modulo a number by the extended Euclidean algorithm. */
bool int_inverse_mod(int value, int modulus, int *inverse)
{
    long long r0 = modulus, r1 = value % modulus;
    long long t0 = 0, t1 = 1;

    if (r1 < 0)
        r1 += modulus;
    while (r1 != 0) {
        long long quotient = r0 / r1;
        long long saved = r0 - quotient * r1;

        r0 = r1;
        r1 = saved;
        saved = t0 - quotient * t1;
        t0 = t1;
        t1 = saved;
    }
    if (r0 != 1)
        return false;
    *inverse = (int)(t0 < 0 ? t0 + modulus : t0);
    return true;
}

/* Write a number from 1 to 3999 in Roman numerals. */
bool int_to_roman(int value, char *out, size_t room)
{
    static const int values[] = {1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1};
    static const char *const signs[] = {
        "M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I",
    };

    if (value < 1 || value > 3999)
        return false;
    for (size_t i = 0; value > 0;) {
        size_t size = strlen(signs[i]);

        if (value < values[i]) {
            i++;
            continue;
        }
        if (size >= room)
            return false;
        memcpy(out, signs[i], size + 1);
        out += size;
        room -= size;
        value -= values[i];
    }
    return true;
}
