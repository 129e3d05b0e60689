//! Parses what the target reports about itself. `fixtures/programs/oracle.py` describes the format.

use std::collections::{HashMap, HashSet};

/// A type, as the target names it.
#[derive(Clone, Debug)]
pub struct TypeTruth {
    pub address: u64,
    /// `module.qualname`, or `None` where one of them is no str, or holds what no Rust string can.
    pub name: Option<String>,
    pub is_heap_type: bool,
    /// Its instances are types.
    pub is_metatype: bool,
    pub basicsize: u64,
    /// Who defines `__sizeof__`, as `module.qualname`.
    pub sizeof_owner: String,
    /// That definition is Python code: nobody outside can know what it returns.
    pub sizeof_is_python: bool,
}

/// An object, as the target knows it.
#[derive(Clone, Debug)]
pub struct ObjectTruth {
    pub address: u64,
    /// Index into `Truth::types`.
    pub type_index: usize,
    /// `sys.getsizeof`, or `None` where that raised.
    pub size: Option<u64>,
    pub tracked: bool,
    /// References besides the oracle's own; -1 or less and huge numbers mean an immortal one.
    pub refcount: i64,
    /// Tracked before the target blocked and after it woke: the tool must have found it.
    pub must_find: bool,
    /// Tracked, but unknown before the target blocked: not judged.
    pub young: bool,
}

/// Everything that the target told.
#[derive(Debug)]
pub struct Truth {
    pub hexversion: u64,
    /// `free-threaded`, `debug` or `-`.
    pub build: String,
    /// `sys.getallocatedblocks()` while the target was blocked.
    pub blocks: u64,
    /// Exact counts of instances that the program vouches for.
    pub expect: Vec<(String, u64)>,
    pub types: Vec<TypeTruth>,
    /// Sorted by address.
    pub objects: Vec<ObjectTruth>,
    /// Tracked objects of sub-interpreters: (interpreter, address, address of the type).
    pub inner: Vec<(usize, u64, u64)>,
    type_by_address: HashMap<u64, usize>,
}

impl Truth {
    /// Parses the answer to `truth`. Anything unexpected is an error: the oracle is ours, so it has no excuse.
    pub fn parse(bytes: &[u8]) -> Result<Truth, String> {
        let mut truth = Truth {
            hexversion: 0,
            build: String::new(),
            blocks: 0,
            expect: Vec::new(),
            types: Vec::new(),
            objects: Vec::new(),
            inner: Vec::new(),
            type_by_address: HashMap::new(),
        };
        let mut types = HashMap::new();
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let line = std::str::from_utf8(line).map_err(|e| format!("{e} in {line:?}"))?;
            truth.parse_line(line, &mut types).ok_or_else(|| format!("not of the protocol: {line:?}"))?;
        }
        // Objects name their types by index, and a type's line comes before its first object, in no other order.
        truth.types =
            (0..types.len()).map(|i| types.remove(&i).ok_or("a gap among types")).collect::<Result<_, _>>()?;
        truth.type_by_address = truth.types.iter().enumerate().map(|(i, t)| (t.address, i)).collect();
        truth.objects.sort_unstable_by_key(|o| o.address);
        let twice = truth.objects.windows(2).any(|pair| pair[0].address == pair[1].address);
        if twice || truth.objects.iter().any(|o| o.type_index >= truth.types.len()) {
            return Err("two objects at one address, or one without a type".into());
        }
        Ok(truth)
    }

    fn parse_line(&mut self, line: &str, types: &mut HashMap<usize, TypeTruth>) -> Option<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        match fields[..] {
            ["truth", "1"] | ["end"] => {}
            ["python", version, build] => (self.hexversion, self.build) = (hex(version)?, build.into()),
            ["blocks", n] => self.blocks = n.parse().ok()?,
            ["expect", name, n] => self.expect.push((unescape(name)?, n.parse().ok()?)),
            ["type", index, address, module, qualname, flags, basicsize, owner] => {
                let odd = flags.contains('O');
                let text = |field: &str| if field == "-" { Some(String::new()) } else { unescape(field) };
                let name = || Some(format!("{}.{}", text(module)?, text(qualname)?));
                let known = TypeTruth {
                    address: hex(address)?,
                    name: if odd { None } else { name() },
                    is_heap_type: flags.contains('H'),
                    is_metatype: flags.contains('T'),
                    basicsize: basicsize.parse().ok()?,
                    sizeof_owner: owner.trim_start_matches("py:").into(),
                    sizeof_is_python: owner.starts_with("py:"),
                };
                types.insert(index.parse().ok()?, known);
            }
            ["object", address, index, size, tracked, refcount, flags] => self.objects.push(ObjectTruth {
                address: hex(address)?,
                type_index: index.parse().ok()?,
                size: if size == "-" { None } else { Some(size.parse().ok()?) },
                tracked: tracked == "1",
                refcount: refcount.parse().ok()?,
                must_find: flags == "M",
                young: flags == "Y",
            }),
            ["inner", n, address, kind] => self.inner.push((n.parse().ok()?, hex(address)?, hex(kind)?)),
            _ => return None,
        }
        Some(())
    }

    /// The object at an address.
    pub fn object(&self, address: u64) -> Option<&ObjectTruth> {
        self.objects.binary_search_by_key(&address, |o| o.address).ok().map(|i| &self.objects[i])
    }

    /// The type of an object.
    pub fn type_of(&self, object: &ObjectTruth) -> &TypeTruth {
        &self.types[object.type_index]
    }

    /// The type that lives at an address.
    pub fn type_at(&self, address: u64) -> Option<&TypeTruth> {
        self.type_by_address.get(&address).map(|i| &self.types[*i])
    }

    /// Whether the debug allocator marks every block: asked for, or in a debug build unless something else is asked
    /// for.
    pub fn has_marks(&self, environment: &[(&str, &str)]) -> bool {
        match environment.iter().find(|(name, _)| *name == "PYTHONMALLOC") {
            Some((_, allocator)) => *allocator == "debug",
            None => self.build == "debug",
        }
    }

    /// The minor version of the interpreter.
    pub fn minor(&self) -> u8 {
        (self.hexversion >> 16) as u8
    }
}

/// What the target told about references.
#[derive(Debug, Default)]
pub struct Edges {
    /// Types whose instances take part in garbage collection.
    pub kinds: HashSet<u64>,
    /// Of each object that does: what `gc.get_referents` names, each once.
    pub edges: HashMap<u64, HashSet<u64>>,
}

impl Edges {
    /// Parses the answer to `edges`.
    pub fn parse(bytes: &[u8]) -> Result<Edges, String> {
        let mut edges = Edges::default();
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let line = std::str::from_utf8(line).map_err(|e| format!("{e} in {line:?}"))?;
            edges.parse_line(line).ok_or_else(|| format!("not of the protocol: {line:?}"))?;
        }
        Ok(edges)
    }

    fn parse_line(&mut self, line: &str) -> Option<()> {
        let mut fields = line.split('\t');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        match fields.next()? {
            "end" => {}
            "kind" => _ = self.kinds.insert(hex(fields.next()?)?),
            "edges" => {
                let source = hex(fields.next()?)?;
                self.edges.insert(source, fields.map(hex).collect::<Option<_>>()?);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Undoes Python's `unicode_escape`. `None` for a lone surrogate, which no Rust string can hold.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        let digits = match rest.next()? {
            'n' => {
                plain.push('\n');
                continue;
            }
            'r' => {
                plain.push('\r');
                continue;
            }
            't' => {
                plain.push('\t');
                continue;
            }
            '\\' => {
                plain.push('\\');
                continue;
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return None,
        };
        let code: String = rest.by_ref().take(digits).collect();
        plain.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
    }
    Some(plain)
}
