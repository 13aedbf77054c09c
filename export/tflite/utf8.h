/* Find the characters of a text in UTF-8. */

#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Return the size of the character at `at` in bytes, 1 to 4. Return 0 if the bytes are not a valid character, or -1 if the text
   ends before the character is complete. `left` is the number of bytes from `at` to the end of the text. */
int utf8_character(const char *at, size_t left);

bool utf8_valid(const char *text, size_t size);

#endif
