/* A program that links haste as a library: it includes the header plainly, and asks once whether the two go together.

   cc -std=c99 user.c $(pkg-config --cflags --libs haste) */
#include <haste.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    haste_error error;
    haste_layer_options options;
    haste_layer layer;
    memset(&options, 0, sizeof options);
    options.labels = 1000;
    options.inputs = 64;
    if (HASTE_CHECK_VERSION(&error) != HASTE_OK || haste_layer_create(&layer, &options, &error) != HASTE_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    printf("haste %d, a layer of %lu bytes\n", haste_version(), (unsigned long)layer.bytes);
    haste_layer_free(&layer);
    return 0;
}
