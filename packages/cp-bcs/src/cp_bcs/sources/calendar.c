/* Dates of the Gregorian calendar. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

/* Decide whether a year has a 29th of February. */
bool date_is_leap(int year)
{
    if (year % 4 != 0)
        return false;
    if (year % 100 != 0)
        return true;
    return year % 400 == 0;
}

/* Return the number of days in a month of a year, or zero for an unknown month. */
int date_month_length(int year, int month)
{
    switch (month) {
    case 1: case 3: case 5: case 7: case 8: case 10: case 12:
        return 31;
    case 4: case 6: case 9: case 11:
        return 30;
    case 2:
        return date_is_leap(year) ? 29 : 28;
    default:
        return 0;
    }
}

/* Check that a date exists in the calendar and is not before the year one. */
bool date_is_valid(const struct date *date)
{
    if (date->year < 1)
        return false;
    if (date->month < 1 || date->month > 12)
        return false;
    return date->day >= 1 && date->day <= date_month_length(date->year, date->month);
}

/* Count the days between the first of January of the year one and a date. */
long date_to_days(const struct date *date)
{
    long before = date->year - 1;
    long days = before * 365 + before / 4 - before / 100 + before / 400;

    for (int month = 1; month < date->month; month++)
        days += date_month_length(date->year, month);
    return days + date->day - 1;
}

/**
 * Convert a day count since the start of the year one to a date.
 *
 * Whole cycles of 400, 100, 4 and 1 years are taken out of the count in turn.
 * Two quotients are limited to three because the last day of a cycle would
 * otherwise be put into a fifth part of it.
 */
struct date date_from_days(long days)
{
    long cycles = days / 146097;
    long rest = days % 146097;
    long centuries = rest / 36524 < 3 ? rest / 36524 : 3;
    long quads, years;
    struct date date;

    rest -= centuries * 36524;
    quads = rest / 1461;
    rest %= 1461;
    years = rest / 365 < 3 ? rest / 365 : 3;
    rest -= years * 365;
    date.year = (int)(cycles * 400 + centuries * 100 + quads * 4 + years + 1);
    for (date.month = 1; rest >= date_month_length(date.year, date.month); date.month++)
        rest -= date_month_length(date.year, date.month);
    date.day = (int)rest + 1;
    return date;
}

/* Return the English name of the weekday on which a date falls. */
const char *date_weekday_name(const struct date *date)
{
    static const char *const names[] = {
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    };

    return names[date_to_days(date) % 7];
}

/* date_iso_week: Compute the ISO week number, which is that of the Thursday in the same week. */
int date_iso_week(const struct date *date)
{
    long days = date_to_days(date);
    long thursday = days - days % 7 + 3;
    struct date first = date_from_days(thursday);

    first.month = first.day = 1;
    return (int)((thursday - date_to_days(&first)) / 7 + 1);
}

// Compute the date of Easter Sunday in a year from the cycle of the moon.
struct date date_easter(int year)
{
    int golden = year % 19;
    int century = year / 100;
    int moon_shift = (8 * century + 13) / 25;
    int epact = (19 * golden + century - century / 4 - moon_shift + 15) % 30;
    int to_sunday, offset;
    struct date date;

    epact -= epact / 28 * (1 - 29 / (epact + 1) * ((21 - golden) / 11));
    to_sunday = (year + year / 4 + epact + 2 - century + century / 4) % 7;
    offset = epact - to_sunday;
    date.year = year;
    date.month = 3 + (offset + 40) / 44;
    date.day = offset + 28 - 31 * (date.month / 4);
    return date;
}

/* Move a date by a number of months, lowering the day if the new month is too short. */
void date_add_months(struct date *date, int months)
{
    int total = date->year * 12 + date->month - 1 + months;
    int length;

    date->year = total / 12;
    date->month = total % 12 + 1;
    length = date_month_length(date->year, date->month);
    if (date->day > length)
        date->day = length;
}

/* Parse a date of the form year, month and day with two hyphens, and validate it. */
bool date_parse_iso(const char *text, struct date *date)
{
    static const char shape[] = "dddd-dd-dd";
    struct date parsed;

    for (size_t i = 0; i < sizeof shape; i++) {
        bool digit = text[i] >= '0' && text[i] <= '9';

        if (shape[i] == 'd' ? !digit : text[i] != shape[i])
            return false;
    }
    parsed.year = atoi(text);
    parsed.month = atoi(text + 5);
    parsed.day = atoi(text + 8);
    if (!date_is_valid(&parsed))
        return false;
    *date = parsed;
    return true;
}

/**
 * Format a date according to a pattern with percent codes.
 *
 * @param pattern  text in which %Y, %y, %m, %d, %e, %A, %a and %% are replaced
 * @return the length of the result, or 0 if it does not fit or a code is unknown
 */
size_t date_format(const struct date *date, const char *pattern, char *out, size_t room)
{
    size_t length = 0;

    if (room > 0)
        *out = '\0';
    for (; *pattern != '\0'; pattern++) {
        char piece[24] = {*pattern};
        size_t size;

        if (*pattern == '%') {
            switch (*++pattern) {
            case 'Y': snprintf(piece, sizeof piece, "%04d", date->year); break;
            case 'y': snprintf(piece, sizeof piece, "%02d", date->year % 100); break;
            case 'm': snprintf(piece, sizeof piece, "%02d", date->month); break;
            case 'd': snprintf(piece, sizeof piece, "%02d", date->day); break;
            case 'e': snprintf(piece, sizeof piece, "%d", date->day); break;
            case 'A': strcpy(piece, date_weekday_name(date)); break;
            case 'a': snprintf(piece, sizeof piece, "%.3s", date_weekday_name(date)); break;
            case '%': break;
            default: return 0;
            }
        }
        size = strlen(piece);
        if (size >= room - length)
            return 0;
        memcpy(out + length, piece, size + 1);
        length += size;
    }
    return length;
}

/* Compute how many full years have passed between a birthday and another date. */
int date_age(const struct date *born, const struct date *today)
{
    int years = today->year - born->year;

    if (today->month < born->month || (today->month == born->month && today->day < born->day))
        years--;
    return years;
}
