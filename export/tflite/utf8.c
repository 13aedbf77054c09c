/* Find the characters of a text in UTF-8. Table 3-7 of the Unicode standard defines the valid byte sequences, which exclude
   surrogates and overlong encodings. */

#include "utf8.h"

static int size_of(unsigned char first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xc2 || first > 0xf4)
        return 0;
    return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* Return whether a second byte is valid. Its range depends on the first byte, which excludes surrogates and overlong
   encodings. */
static bool second_fits(unsigned char first, unsigned char second)
{
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    return low <= second && second <= high;
}

int utf8_character(const char *at, size_t left)
{
    const unsigned char *byte = (const unsigned char *)at;
    int size = left > 0 ? size_of(byte[0]) : -1;
    for (int i = 1; i < size; i++) {
        if ((size_t)i == left)
            return -1;
        if (i == 1 ? !second_fits(byte[0], byte[1]) : (byte[i] & 0xc0) != 0x80)
            return 0;
    }
    return size;
}

bool utf8_valid(const char *text, size_t size)
{
    while (size > 0) {
        int character = utf8_character(text, size);
        if (character < 1)
            return false;
        text += character;
        size -= (size_t)character;
    }
    return true;
}
