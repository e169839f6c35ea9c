// The keywords of one part of a schema, references and choices aside.
#pragma once

#include "grammar/schema_reader.h"

namespace edgewise::grammar {

// Throws Error(kUsage) at one that is not supported.
void check_keywords(const SchemaPart& part);

// Adds what a part demands to what others have demanded, and returns the types whose keywords are there. Throws
// Error(kUsage) at a value that its keyword does not take.
uint8_t read_keywords(const SchemaPart& part, Shape& shape);

}  // namespace edgewise::grammar
