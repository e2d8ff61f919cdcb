// What PyTorch's headers of torch.func name of a library whose header its wheels lack (pytorch#181565), and the node never
// calls. Where the library is installed, its own header comes first.

#pragma once

#include <string>

namespace nlohmann {

struct json {
  json();
  template <class T> json(const T&);
  static json parse(const std::string&);
  std::string dump() const;
  template <class T> T get() const;
};

}  // namespace nlohmann
