/* SPDX-License-Identifier: MIT */
/* Encodes a small picture with libpng, decodes it again and prints what came back, as JSON. */
#include <jansson.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { WIDTH = 64, HEIGHT = 48, PIXELS = WIDTH * HEIGHT };

static void fail(const char *what) {
    fprintf(stderr, "picture-report: %s\n", what);
    exit(1);
}

int main(void) {
    unsigned char drawn[PIXELS], decoded[PIXELS];
    for (int row = 0; row < HEIGHT; row++)
        for (int column = 0; column < WIDTH; column++)
            drawn[row * WIDTH + column] = (unsigned char)(row ^ column);

    png_image picture;
    memset(&picture, 0, sizeof picture);
    picture.version = PNG_IMAGE_VERSION;
    picture.width = WIDTH;
    picture.height = HEIGHT;
    picture.format = PNG_FORMAT_GRAY;

    png_alloc_size_t size = 0;
    if (!png_image_write_to_memory(&picture, NULL, &size, 0, drawn, 0, NULL))
        fail(picture.message);
    unsigned char *file = malloc(size);
    if (!file || !png_image_write_to_memory(&picture, file, &size, 0, drawn, 0, NULL))
        fail("cannot encode");

    memset(&picture, 0, sizeof picture);
    picture.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_memory(&picture, file, size))
        fail(picture.message);
    picture.format = PNG_FORMAT_GRAY;
    if (!png_image_finish_read(&picture, NULL, decoded, 0, NULL))
        fail(picture.message);
    free(file);
    if (memcmp(drawn, decoded, PIXELS) != 0)
        fail("the decoded picture differs from the drawn one");

    char checksum[9];
    snprintf(checksum, sizeof checksum, "%08lx", crc32(0, decoded, PIXELS));
    json_t *report = json_pack("{s:i, s:i, s:s, s:s, s:s, s:s}", "width", (int)picture.width, "height",
                               (int)picture.height, "crc32", checksum, "libpng", png_get_libpng_ver(NULL),
                               "zlib", zlibVersion(), "jansson", jansson_version_str());
    char *text = report ? json_dumps(report, JSON_SORT_KEYS | JSON_INDENT(2)) : NULL;
    if (!text)
        fail("cannot write JSON");
    puts(text);
    free(text);
    json_decref(report);
    return 0;
}
