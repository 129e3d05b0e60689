//! A table in which each string stands once and has a number, as several formats of other programs have it.

use rustc_hash::FxHashMap;

/// Numbers strings in the order in which they are first met.
#[derive(Debug, Default)]
pub struct StringTable {
    list: Vec<String>,
    index: FxHashMap<String, u32>,
}

impl StringTable {
    /// The number of a string, which is added if it is new.
    pub fn index(&mut self, string: &str) -> u32 {
        if let Some(&index) = self.index.get(string) {
            return index;
        }
        let index = self.list.len() as u32;
        self.list.push(string.to_owned());
        self.index.insert(string.to_owned(), index);
        index
    }

    /// The strings, by number.
    pub fn list(&self) -> &[String] {
        &self.list
    }
}
