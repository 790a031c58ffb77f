// How the engine spreads its work: `body(argument)` runs once on each of so many threads, and returns when all
// are done.
#pragma once

namespace qkv {

using Body = void (*)(void* argument);
using Spread = void (*)(int threads, Body body, void* argument);

template <typename F>
void on_threads(Spread spread, int threads, F& body) {
  spread(threads, [](void* argument) { (*static_cast<F*>(argument))(); }, &body);
}

}  // namespace qkv
