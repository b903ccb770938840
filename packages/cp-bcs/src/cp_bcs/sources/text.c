/* Scanning and changing zero-terminated text. */
#include "corpus.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int smallest(int a, int b, int c)
{
    int best = a < b ? a : b;

    return best < c ? best : c;
}

/* Cut white space from both ends of a string and return its new start. */
char *text_trim(char *text)
{
    char *end;

    while (isspace((unsigned char)*text))
        text++;
    end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        end--;
    *end = '\0';
    return text;
}

/**
 * Break a string in place at each separator and collect the pieces.
 *
 * @param text        the string, in which separators become terminators
 * @param fields      receives the start of each piece
 * @param max_fields  length of that array; the last piece keeps the rest
 * @return the number of pieces
 */
size_t text_split(char *text, char separator, char **fields, size_t max_fields)
{
    size_t count = 0;

    while (count < max_fields) {
        char *stop;

        fields[count++] = text;
        stop = count < max_fields ? strchr(text, separator) : NULL;
        if (stop == NULL)
            break;
        *stop = '\0';
        text = stop + 1;
    }
    return count;
}

/* Count the runs of characters that are not white space. */
size_t text_count_words(const char *text)
{
    size_t words = 0;
    bool inside = false;

    for (; *text != '\0'; text++) {
        if (isspace((unsigned char)*text)) {
            inside = false;
        } else if (!inside) {
            inside = true;
            words++;
        }
    }
    return words;
}

/* Return a newly allocated copy of a string with every occurrence of a substring replaced. */
char *text_replace(const char *text, const char *old, const char *fresh)
{
    size_t old_size = strlen(old);
    size_t fresh_size = strlen(fresh);
    size_t hits = 0;
    const char *hit;
    char *result, *out;

    if (old_size == 0)
        return NULL;
    for (hit = strstr(text, old); hit != NULL; hit = strstr(hit + old_size, old))
        hits++;
    result = out = malloc(strlen(text) + hits * fresh_size - hits * old_size + 1);
    if (result == NULL)
        return NULL;
    while ((hit = strstr(text, old)) != NULL) {
        memcpy(out, text, (size_t)(hit - text));
        out += hit - text;
        memcpy(out, fresh, fresh_size);
        out += fresh_size;
        text = hit + old_size;
    }
    strcpy(out, text);
    return result;
}

/* Check whether the letters and digits read the same in both directions, ignoring case. */
bool text_is_palindrome(const char *text)
{
    const char *end = text + strlen(text);

    while (text < end) {
        if (!isalnum((unsigned char)*text))
            text++;
        else if (!isalnum((unsigned char)end[-1]))
            end--;
        else if (tolower((unsigned char)*text++) != tolower((unsigned char)*--end))
            return false;
    }
    return true;
}

// Put the first letter of each word in upper case and the others in lower case.
void text_title_case(char *text)
{
    bool start = true;

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        *text = (char)(start ? toupper(c) : tolower(c));
        start = !isalpha(c) && c != '\'';
    }
}

/* Convert a signed decimal numeral to an int, refusing overflow and trailing text. */
bool text_parse_int(const char *text, int *value)
{
    bool negative = *text == '-';
    unsigned limit = negative ? (unsigned)INT_MAX + 1 : INT_MAX;
    unsigned total = 0;

    if (*text == '-' || *text == '+')
        text++;
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        unsigned digit = (unsigned)*text - '0';

        if (digit > 9 || total > (limit - digit) / 10)
            return false;
        total = total * 10 + digit;
    }
    *value = negative && total > 0 ? -(int)(total - 1) - 1 : (int)total;
    return true;
}

/* Match a whole string against a pattern with star and question mark wildcards. */
bool text_glob(const char *pattern, const char *text)
{
    const char *star = NULL;
    const char *resume = NULL;

    while (*text != '\0') {
        if (*pattern == '*') {
            star = ++pattern;
            resume = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star;
            text = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

/* Compute the least number of single character edits that turn one string into another. */
int text_edit_distance(const char *a, const char *b)
{
    size_t width = strlen(b);
    int *row = malloc((width + 1) * sizeof *row);
    int distance;

    if (row == NULL)
        return -1;
    for (size_t j = 0; j <= width; j++)
        row[j] = (int)j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        int diagonal = row[0]++;

        for (size_t j = 0; j < width; j++) {
            int cost = smallest(row[j] + 1, row[j + 1] + 1, diagonal + (a[i] != b[j]));

            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    distance = row[width];
    free(row);
    return distance;
}
