/* Reading, writing and comparing files. */
#include "corpus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void complain(const char *action, const char *path)
{
    fprintf(stderr, "cannot %s %s: %s\n", action, path, strerror(errno));
}

/**
 * Read a whole file into newly allocated memory.
 *
 * The buffer doubles while data keeps coming, so pipes work as well as regular
 * files. A zero byte is put behind the data. Errors are reported on the
 * standard error stream.
 */
char *file_load(const char *path, size_t *size)
{
    FILE *stream = fopen(path, "rb");
    size_t room = 1024;
    char *data = NULL;
    size_t got;

    if (stream == NULL) {
        complain("open", path);
        return NULL;
    }
    *size = 0;
    do {
        char *larger;

        room *= 2;
        larger = realloc(data, room);
        if (larger == NULL) {
            complain("allocate memory for", path);
            goto fail;
        }
        data = larger;
        got = fread(data + *size, 1, room - 1 - *size, stream);
        *size += got;
    } while (*size == room - 1);
    if (ferror(stream)) {
        complain("read", path);
        goto fail;
    }
    fclose(stream);
    data[*size] = '\0';
    return data;

fail:
    fclose(stream);
    free(data);
    return NULL;
}

/* Create or overwrite a file with a block of memory, deleting it after a failure. */
bool file_store(const char *path, const void *data, size_t size)
{
    FILE *stream = fopen(path, "wb");
    bool good;

    if (stream == NULL) {
        complain("create", path);
        return false;
    }
    good = fwrite(data, 1, size, stream) == size;
    good = fclose(stream) == 0 && good;
    if (!good) {
        complain("write", path);
        remove(path);
    }
    return good;
}

/* Determine the size of a file by seeking to its end. */
long file_size(const char *path)
{
    FILE *stream = fopen(path, "rb");
    long size = -1;

    if (stream == NULL)
        return -1;
    if (fseek(stream, 0, SEEK_END) == 0)
        size = ftell(stream);
    fclose(stream);
    return size;
}

/* Read a line of any length from a stream into allocated memory, without its newline. */
char *file_read_line(FILE *stream)
{
    size_t room = 80;
    size_t length = 0;
    char *line = malloc(room);

    while (line != NULL && fgets(line + length, (int)(room - length), stream) != NULL) {
        char *larger;

        length += strlen(line + length);
        if (length > 0 && line[length - 1] == '\n') {
            line[length - 1] = '\0';
            return line;
        }
        larger = realloc(line, room *= 2);
        if (larger == NULL)
            break;
        line = larger;
    }
    if (line != NULL && length > 0 && feof(stream))
        return line;
    free(line);
    return NULL;
}

// Count the lines of a stream, including a last one that lacks its newline.
long file_count_lines(FILE *stream)
{
    char block[512];
    char last = '\n';
    long lines = 0;
    size_t got;

    while ((got = fread(block, 1, sizeof block, stream)) > 0) {
        for (size_t i = 0; i < got; i++)
            lines += block[i] == '\n';
        last = block[got - 1];
    }
    return lines + (last != '\n');
}

/* Print the lines of a stream that contain a string, each with its line number. */
int file_search(FILE *stream, const char *needle, FILE *report)
{
    char line[256];
    int number = 0;
    int found = 0;

    while (fgets(line, sizeof line, stream) != NULL) {
        number++;
        line[strcspn(line, "\n")] = '\0';
        if (strstr(line, needle) != NULL) {
            fprintf(report, "%d: %s\n", number, line);
            found++;
        }
    }
    return found;
}

/* Return the offset of the first byte in which two streams differ, or -1. */
long file_first_difference(FILE *a, FILE *b)
{
    long offset = 0;

    for (;; offset++) {
        int x = getc(a);
        int y = getc(b);

        if (x != y)
            return offset;
        if (x == EOF)
            return -1;
    }
}

/* Copy a stream to another while replacing tabs by spaces up to the next tab stop. */
void file_expand_tabs(FILE *in, FILE *out, int width)
{
    int column = 0;
    int c;

    while ((c = getc(in)) != EOF) {
        if (c == '\t') {
            do {
                putc(' ', out);
            } while (++column % width != 0);
            continue;
        }
        putc(c, out);
        column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
}

/* Guess the kind of a file from the magic bytes at its start. */
const char *file_guess_type(const void *start, size_t size)
{
    if (size >= 4 && memcmp(start, "\177ELF", 4) == 0)
        return "executable";
    if (size >= 8 && memcmp(start, "\211PNG\r\n\032\n", 8) == 0)
        return "image";
    if (size >= 5 && memcmp(start, "%PDF-", 5) == 0)
        return "document";
    if (size >= 2 && memcmp(start, "\037\213", 2) == 0)
        return "compressed";
    if (size >= 2 && memcmp(start, "#!", 2) == 0)
        return "script";
    return memchr(start, 0, size) != NULL ? "binary" : "text";
}
