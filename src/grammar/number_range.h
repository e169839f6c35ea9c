// Numbers between bounds, as regular expressions over their decimal digits.
#pragma once

#include <string>
#include <vector>

#include "formats/json.h"
#include "grammar/regex_pool.h"

namespace edgewise::grammar {

// A number as plain decimal digits.
struct Decimal {
  bool negative = false;
  std::string whole;     // no leading zeros; "0" for none
  std::string fraction;  // no trailing zeros
};

Decimal decimal_of(const OrderedJson& number);

struct Bound {
  Decimal value;
  bool lower;
  bool strict;  // the bound itself is outside
};

// Integers within all bounds, of up to 18 digits.
Regex bounded_integer(RegexPool& pool, const std::vector<Bound>& bounds);
// Numbers within all bounds, without exponents and of up to 15 digits: so many survive the way through a double, so
// that a strict bound stays one for every reader. `max_fraction` limits the digits behind the point.
Regex bounded_number(RegexPool& pool, const std::vector<Bound>& bounds, uint32_t max_fraction);

}  // namespace edgewise::grammar
