/* Parsing lines of CSV and INI files and small values in them. */
#include "corpus.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static char *skip_blanks(const char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    return (char *)text;
}

static void cut_tail(char *text)
{
    size_t length = strlen(text);

    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
}

/**
 * csv_split - Split a line of comma-separated values in place.
 *
 * Fields may be put in double quotes, and two quotes within them stand for one.
 *
 * @param fields      receives a pointer to each field
 * @param max_fields  most fields to accept
 * @return the number of fields, or -1 for bad quotes or too many fields
 */
int csv_split(char *line, char **fields, int max_fields)
{
    int count = 0;

    for (;;) {
        char *out = line;
        char stop;

        if (count == max_fields)
            return -1;
        fields[count++] = out;
        if (*line == '"') {
            for (line++; *line != '"' || line[1] == '"'; *out++ = *line++) {
                if (*line == '\0')
                    return -1;
                if (*line == '"')
                    line++;
            }
            line++;
        } else {
            line += strcspn(line, ",\r\n");
            out = line;
        }
        stop = *line++;
        *out = '\0';
        if (stop != ',')
            return stop == '\0' || stop == '\r' || stop == '\n' ? count : -1;
    }
}

/* Copy a CSV field to a buffer, adding quotes if it holds a comma, quote or line break. */
size_t csv_quote(const char *field, char *out, size_t room)
{
    size_t length = strlen(field);
    size_t at = 0;

    if (field[strcspn(field, ",\"\r\n")] == '\0') {
        if (length >= room)
            return 0;
        memcpy(out, field, length + 1);
        return length;
    }
    if (room < 2 * length + 3)
        return 0;
    out[at++] = '"';
    for (; *field != '\0'; field++) {
        if (*field == '"')
            out[at++] = '"';
        out[at++] = *field;
    }
    out[at++] = '"';
    out[at] = '\0';
    return at;
}

/**
 * Classify a line of an INI file and take it apart in place.
 *
 * @param key    receives the section name or the key
 * @param value  receives the value of a pair, possibly empty
 * @return the kind of the line
 */
enum ini_kind ini_parse_line(char *line, char **key, char **value)
{
    char *mark;

    line = skip_blanks(line);
    cut_tail(line);
    switch (*line) {
    case '\0':
        return INI_BLANK;
    case ';':
    case '#':
        return INI_COMMENT;
    case '[':
        mark = strchr(line, ']');
        if (mark == NULL || mark[1] != '\0')
            return INI_ERROR;
        *mark = '\0';
        *key = line + 1;
        return INI_SECTION;
    default:
        mark = strchr(line, '=');
        if (mark == NULL || mark == line)
            return INI_ERROR;
        *mark = '\0';
        cut_tail(line);
        *key = line;
        *value = skip_blanks(mark + 1);
        return INI_PAIR;
    }
}

/* Search the text of an INI file for a key in a section and copy its value. */
bool ini_lookup(const char *text, const char *section, const char *key, char *out, size_t room)
{
    bool inside = *section == '\0';
    char line[128], *name, *value;

    while (*text != '\0') {
        size_t length = strcspn(text, "\n");

        snprintf(line, sizeof line, "%.*s", (int)length, text);
        switch (ini_parse_line(line, &name, &value)) {
        case INI_SECTION:
            inside = strcmp(name, section) == 0;
            break;
        case INI_PAIR:
            if (inside && strcmp(name, key) == 0)
                return (size_t)snprintf(out, room, "%s", value) < room;
            break;
        default:
            break;
        }
        text += length + (text[length] == '\n');
    }
    return false;
}

/* Convert a duration such as 1d2h30m to seconds, or return -1 if it is malformed. */
long record_parse_duration(const char *text)
{
    long total = 0;

    while (*text != '\0') {
        char *end;
        long amount = strtol(text, &end, 10);

        if (end == text || amount < 0 || amount > 10000)
            return -1;
        switch (*end) {
        case 'd': total += amount * 86400; break;
        case 'h': total += amount * 3600; break;
        case 'm': total += amount * 60; break;
        case 's': total += amount; break;
        default: return -1;
        }
        text = end + 1;
    }
    return total;
}

/* Split text of the form a=1;b=2 and hand each pair to a function until it refuses. */
int record_each_pair(const char *text, pair_handler handle, void *context)
{
    int handled = 0;

    while (*text != '\0') {
        size_t length = strcspn(text, ";");
        char pair[64];
        char *mark;

        if (length >= sizeof pair)
            return -1;
        memcpy(pair, text, length);
        pair[length] = '\0';
        text += length + (text[length] == ';');
        mark = strchr(pair, '=');
        if (mark == NULL)
            continue;
        *mark = '\0';
        if (!handle(pair, mark + 1, context))
            break;
        handled++;
    }
    return handled;
}
