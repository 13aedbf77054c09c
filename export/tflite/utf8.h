/* Characters in UTF-8. */

#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* The size of the character at `at`, 1 to 4 bytes; 0 if none begins so; -1 if one does, but goes on behind the end. */
int utf8_character(const char *at, size_t left);

bool utf8_valid(const char *text, size_t size);

#endif
