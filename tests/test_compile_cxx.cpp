// The implementation inside a C++ file, among names that C++ programs bring along.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>
using namespace std;

#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "job.h"

int main()
{
    uint64_t hash = 0;
    vector<haste_layer> layers(2);
    haste_layer_options options = {};
    haste_error error = {};
    string text = haste_status_text(haste_layer_create(&layers[0], &options, &error));   // no labels: an error in words
    return text.empty() || string(error.text).empty() || !job(1, &hash);
}
