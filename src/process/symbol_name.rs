//! Names of C++ tables of virtual functions, as a person writes them.
//!
//! Mirrors a small part of the Itanium C++ ABI, 5.1 *External names*: `_ZTV` with a name that has no template
//! arguments. All other symbols keep their names.

/// `vtable for shop::Circle` for `_ZTVN4shop6CircleE`; any other symbol as it is.
pub fn readable(symbol: &str) -> String {
    let name = symbol.strip_prefix("_ZTV").and_then(|rest| match rest.strip_prefix('N') {
        Some(nested) => parts(nested.strip_suffix('E')?, usize::MAX),
        None => parts(rest, 1),
    });
    name.map_or_else(|| symbol.to_owned(), |name| format!("vtable for {name}"))
}

/// At most `most` source names, each after its length, joined by `::`; `St` stands for `std`.
fn parts(text: &str, most: usize) -> Option<String> {
    let (mut rest, mut names) = (text, Vec::new());
    if let Some(after) = rest.strip_prefix("St") {
        names.push("std");
        rest = after;
    }
    let start = names.len();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let length: usize = rest.get(..digits)?.parse().ok()?;
        names.push(rest.get(digits..digits.checked_add(length)?)?);
        rest = rest.get(digits + length..)?;
    }
    let count = names.len() - start;
    let plain = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (count > 0 && count <= most && names.iter().all(plain)).then(|| names.join("::"))
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn tables_of_plain_names_are_readable_and_the_rest_is_as_it_is() {
        let named = [
            ("_ZTV6Circle", "vtable for Circle"),
            ("_ZTVSt9exception", "vtable for std::exception"),
            ("_ZTVN4shop6CircleE", "vtable for shop::Circle"),
            ("_ZTVNSt8ios_base7failureE", "vtable for std::ios_base::failure"),
        ];
        for (symbol, expected) in named {
            assert_eq!(readable(symbol), expected);
        }
        let others =
            ["PyFloat_Type", "_ZTV", "_ZTV6Circl", "_ZTV99999999999999999999x", "_ZTVN1aI1bE", "_ZTV1aI1bE", "_ZTVNE"];
        for symbol in others {
            assert_eq!(readable(symbol), symbol);
        }
    }
}
