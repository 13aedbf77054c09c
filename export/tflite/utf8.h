/* Characters of UTF-8 text. */

#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Return the size of the character at `at`, 1 to 4 bytes; 0 if it is invalid; -1 if it is incomplete at the end of the text. */
int utf8_character(const char *at, size_t left);

bool utf8_valid(const char *text, size_t size);

#endif
