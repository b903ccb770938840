/* Growing text buffer with formatting. */
#include "corpus.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(struct strbuf *buffer, size_t extra)
{
    size_t room = buffer->room > 0 ? buffer->room : 32;
    char *text;

    if (extra < buffer->room - buffer->length)
        return true;
    while (room - buffer->length <= extra) {
        if (room > SIZE_MAX / 2)
            return false;
        room *= 2;
    }
    text = realloc(buffer->text, room);
    if (text == NULL)
        return false;
    buffer->text = text;
    buffer->room = room;
    return true;
}

/* strbuf_append: Add a number of bytes to the end of the text buffer. */
bool strbuf_append(struct strbuf *buffer, const char *bytes, size_t size)
{
    if (!make_room(buffer, size))
        return false;
    memcpy(buffer->text + buffer->length, bytes, size);
    buffer->length += size;
    buffer->text[buffer->length] = '\0';
    return true;
}

/* Add one character to the text buffer and keep the terminator behind it. */
bool strbuf_put(struct strbuf *buffer, char c)
{
    if (buffer->room - buffer->length < 2 && !make_room(buffer, 1))
        return false;
    buffer->text[buffer->length] = c;
    buffer->text[++buffer->length] = '\0';
    return true;
}

/* Append text formatted by the C library, measuring its length first. */
bool strbuf_printf(struct strbuf *buffer, const char *format, ...)
{
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0 || !make_room(buffer, (size_t)size))
        return false;
    va_start(arguments, format);
    vsnprintf(buffer->text + buffer->length, (size_t)size + 1, format, arguments);
    va_end(arguments);
    buffer->length += (size_t)size;
    return true;
}

/*
 * Append text according to a reduced format language of its own. It knows the
 * codes %b, %c, %d, %o, %s, %u, %x and %% without widths or flags.
 */
bool strbuf_format(struct strbuf *buffer, const char *format, ...)
{
    va_list arguments;
    bool good = true;

    va_start(arguments, format);
    for (; good && *format != '\0'; format++) {
        const char *string = NULL;
        char digits[40], *place = digits + sizeof digits - 1;
        unsigned number = 0, base = 0;
        bool minus = false;

        if (*format != '%') {
            good = strbuf_put(buffer, *format);
            continue;
        }
        switch (*++format) {
        case 'b': base = 2; number = va_arg(arguments, unsigned); break;
        case 'c': good = strbuf_put(buffer, (char)va_arg(arguments, int)); continue;
        case 'd':
            base = 10;
            number = (unsigned)va_arg(arguments, int);
            minus = (int)number < 0;
            if (minus)
                number = 0 - number;
            break;
        case 'o': base = 8; number = va_arg(arguments, unsigned); break;
        case 's': string = va_arg(arguments, const char *); break;
        case 'u': base = 10; number = va_arg(arguments, unsigned); break;
        case 'x': base = 16; number = va_arg(arguments, unsigned); break;
        case '%': string = "%"; break;
        default: good = false; goto done;
        }
        if (base != 0) {
            *place = '\0';
            do {
                *--place = "0123456789abcdef"[number % base];
            } while ((number /= base) != 0);
            if (minus)
                *--place = '-';
            string = place;
        }
        good = strbuf_append(buffer, string, strlen(string));
    }
done:
    va_end(arguments);
    return good;
}

/* Insert a string before a position of the buffer by moving up the rest. */
bool strbuf_insert(struct strbuf *buffer, size_t at, const char *text)
{
    size_t size = strlen(text);

    if (at > buffer->length || !make_room(buffer, size))
        return false;
    memmove(buffer->text + at + size, buffer->text + at, buffer->length - at);
    memcpy(buffer->text + at, text, size);
    buffer->length += size;
    buffer->text[buffer->length] = '\0';
    return true;
}

/* Append a string as a C literal in double quotes with escape sequences. */
bool strbuf_quote(struct strbuf *buffer, const char *text)
{
    bool good = strbuf_put(buffer, '"');

    for (; good && *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        switch (c) {
        case '\a': good = strbuf_append(buffer, "\\a", 2); break;
        case '\b': good = strbuf_append(buffer, "\\b", 2); break;
        case '\t': good = strbuf_append(buffer, "\\t", 2); break;
        case '\n': good = strbuf_append(buffer, "\\n", 2); break;
        case '\v': good = strbuf_append(buffer, "\\v", 2); break;
        case '\f': good = strbuf_append(buffer, "\\f", 2); break;
        case '\r': good = strbuf_append(buffer, "\\r", 2); break;
        case '"': good = strbuf_append(buffer, "\\\"", 2); break;
        case '\\': good = strbuf_append(buffer, "\\\\", 2); break;
        default: good = isprint(c) ? strbuf_put(buffer, (char)c) : strbuf_printf(buffer, "\\%03o", c);
        }
    }
    return good && strbuf_put(buffer, '"');
}

/* Append a whole number with a comma between each group of three digits. */
bool strbuf_grouped(struct strbuf *buffer, long long number)
{
    char digits[24];
    int size = snprintf(digits, sizeof digits, "%lld", number);

    for (int i = 0; i < size; i++) {
        int left = size - i;

        if (i > 0 && left % 3 == 0 && digits[i - 1] != '-' && !strbuf_put(buffer, ','))
            return false;
        if (!strbuf_put(buffer, digits[i]))
            return false;
    }
    return true;
}

/* Append a string centered in a field that is filled up on both sides. */
bool strbuf_center(struct strbuf *buffer, const char *text, size_t width, char fill)
{
    size_t size = strlen(text);
    size_t padding = width > size ? width - size : 0;

    if (!make_room(buffer, size + padding))
        return false;
    memset(buffer->text + buffer->length, fill, size + padding);
    memcpy(buffer->text + buffer->length + padding / 2, text, size);
    buffer->length += size + padding;
    buffer->text[buffer->length] = '\0';
    return true;
}
