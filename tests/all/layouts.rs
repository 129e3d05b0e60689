//! Tests the layout tables: each is complete, they cover the versions they claim, they agree where they must, and they
//! can be regenerated from an interpreter with debug information.

use crate::case::{TestCase, cases};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use heapsonde::python::layout::{Build, Candidate, DebugOffsets, Layout};
use heapsonde::python::version::Version;
use object::{Object, ObjectSection};
use serde_json::Value;

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    cases![
        every_table_loads_and_is_what_its_entry_says,
        every_table_in_the_folder_is_embedded,
        each_release_has_one_table_of_the_original_and_at_most_one_of_a_distributor,
        an_unknown_minor_version_has_no_candidates,
        fields_lie_inside_their_structs,
        what_one_struct_says_of_another_holds,
        structs_that_extensions_see_are_the_same_in_default_and_debug_builds,
        structs_laid_out_anew_for_free_threading_match_a_free_threaded_binary,
        published_offsets_lie_at_the_same_places_in_all_tables_of_a_minor_version,
        what_real_interpreters_publish_agrees_with_their_tables,
        a_table_made_again_from_an_interpreter_is_the_same,
    ]
}

const BUILDS: [Build; 4] = [Build::Default, Build::FreeThreaded, Build::Debug, Build::DebugFreeThreaded];

fn json(candidate: &Candidate) -> Value {
    serde_json::from_str(candidate.json()).unwrap()
}

fn every_table_loads_and_is_what_its_entry_says() {
    for candidate in Candidate::all() {
        let layout = Layout::load(candidate);
        let json = json(candidate);
        assert_eq!(layout.name, candidate.name);
        assert_eq!(layout.build, candidate.build);
        assert!(!layout.source.is_empty());
        assert_eq!(json["from"], candidate.from.to_string(), "{}", candidate.name);
        assert_eq!(json["until"], candidate.until.to_string(), "{}", candidate.name);
        assert!(candidate.from <= candidate.until);
    }
}

fn every_table_in_the_folder_is_embedded() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/python/layout/tables");
    let mut found: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    found.sort();
    let mut embedded: Vec<_> = Candidate::all().iter().map(|c| c.name).collect();
    embedded.sort();
    assert_eq!(found, embedded);
}

fn each_release_has_one_table_of_the_original_and_at_most_one_of_a_distributor() {
    for build in BUILDS {
        for minor in 8..=15 {
            for micro in 0..=255 {
                let version = Version::release(3, minor, micro);
                let candidates = Layout::candidates(version, build);
                let exact: Vec<_> = candidates.iter().filter(|c| c.is_exact(version)).collect();
                let patched = exact.iter().filter(|c| c.is_patched()).count();
                let free_threaded = matches!(build, Build::FreeThreaded | Build::DebugFreeThreaded);
                let expected = usize::from(!free_threaded || minor >= 13);
                assert_eq!(exact.len() - patched, expected, "{version} {build:?}");
                assert!(patched <= 1);
                assert!(candidates.iter().take(exact.len()).all(|c| c.is_exact(version)));
                assert!(candidates.iter().all(|c| c.build == build && c.from.minor == minor));
            }
        }
    }
}

fn an_unknown_minor_version_has_no_candidates() {
    assert!(Layout::candidates(Version::release(3, 7, 0), Build::Default).is_empty());
    assert!(Layout::candidates(Version::release(3, 16, 0), Build::Default).is_empty());
    assert!(Layout::candidates(Version::release(2, 13, 0), Build::Default).is_empty());
}

fn fields_lie_inside_their_structs() {
    for candidate in Candidate::all() {
        let layout = Layout::load(candidate);
        for wanted in Layout::WANTED {
            let offsets = layout.c_struct(wanted.name).unwrap();
            let Some(size) = offsets.get("size") else { continue };
            assert!(size < 1 << 24, "{}.{}", candidate.name, wanted.name);
            for field in wanted.fields {
                // A flexible array at the end lies at `size`, or before it by the padding.
                let at = offsets.get(field.name).unwrap_or(0);
                assert!(at <= size, "{}: {}.{} at {at} of {size}", candidate.name, wanted.name, field.name);
            }
        }
    }
}

fn what_one_struct_says_of_another_holds() {
    for candidate in Candidate::all() {
        let layout = Layout::load(candidate);
        let free_threaded = matches!(layout.build, Build::FreeThreaded | Build::DebugFreeThreaded);
        assert_eq!(layout.var_object.ob_size, layout.object.size, "{}", candidate.name);
        assert_eq!(layout.list.ob_item, layout.var_object.size);
        assert_eq!(layout.dict.size, layout.odict.od_first, "an OrderedDict starts with a dict");
        assert_eq!(layout.dict.size, layout.default_dict.default_factory, "so does a defaultdict");
        assert_eq!(layout.unicode.data, layout.compact_unicode.size);
        assert_eq!(layout.unicode.utf8_length, layout.ascii_unicode.size);
        assert_eq!(layout.gc_generation.size, 24);
        let heads = if free_threaded { None } else { Some(layout.gc_head.size) };
        assert_eq!(layout.constants.gc_head_size, heads.unwrap_or(0));
        assert_eq!(layout.object.ob_tid.is_some(), free_threaded);
        assert_eq!(layout.object.ob_type, if free_threaded { 24 } else { 8 });
        assert_eq!(layout.constants.arena_size % layout.constants.pool_size, 0);
        assert_eq!(layout.pool_header.size, layout.constants.pool_overhead);
        if let (Some(thread), Some(base)) = (&layout.thread_impl, layout.thread_impl.as_ref().map(|t| t.base)) {
            assert_eq!(base, 0);
            assert!(thread.asyncio_running_loop >= layout.thread.size);
        }
    }
}

fn structs_that_extensions_see_are_the_same_in_default_and_debug_builds() {
    // CPython's ABI is one for both since 3.8 (bpo-36465); only the runtime's own structs differ.
    let open = ["object", "type_object", "heap_type", "unicode", "long", "list", "tuple", "dict", "set", "module"];
    for debug in Candidate::all().iter().filter(|c| c.build == Build::Debug) {
        let default = Layout::load(&Layout::candidates(debug.until, Build::Default)[0]);
        let debug = Layout::load(debug);
        for member in open {
            let (a, b) = (default.c_struct(member).unwrap(), debug.c_struct(member).unwrap());
            for field in a.names().into_iter().chain(["size"]) {
                assert_eq!(a.get(field), b.get(field), "{}: {member}.{field}", debug.name);
            }
        }
    }
}

fn structs_laid_out_anew_for_free_threading_match_a_free_threaded_binary() {
    // 3.13.5t is read from a binary; the structs of .c files in 3.13.15t are computed from a default build.
    let table = |name| Layout::load(Candidate::all().iter().find(|c| c.name == name).unwrap());
    let (read, computed) = (table("3.13.5t"), table("3.13.15t"));
    assert_eq!(read.odict, computed.odict);
    assert_eq!(read.deque, computed.deque);
    assert_eq!(read.default_dict, computed.default_dict);
    assert_eq!(read.array, computed.array);
    assert_eq!(read.lru_cache, computed.lru_cache);
    assert_eq!(read.lru_elem, computed.lru_elem);
    assert_eq!(read.partial, computed.partial);
    assert_eq!(read.local, computed.local);
    assert_eq!(read.simple_queue, computed.simple_queue);
    assert_eq!(read.element, computed.element);
    assert_eq!(read.buffered, computed.buffered);
    assert_eq!(read.future, computed.future);
    assert_eq!(read.task, computed.task);
}

fn published_offsets_lie_at_the_same_places_in_all_tables_of_a_minor_version() {
    let mut shapes = BTreeMap::new();
    for candidate in Candidate::all() {
        let shape = candidate.published_shape();
        assert_eq!(shape.is_some(), candidate.from.minor >= 13, "{}", candidate.name);
        let Some(shape) = shape else { continue };
        assert!(shape.size <= DebugOffsets::MAX_SIZE);
        let first = shapes.entry(candidate.from.minor).or_insert_with(|| shape.clone());
        assert_eq!(*first, shape, "{}", candidate.name);
    }
}

/// Folders of interpreters: `HEAPSONDE_INTERPRETERS`, else pyenv's.
fn interpreters() -> Vec<PathBuf> {
    let folder = env::var_os("HEAPSONDE_INTERPRETERS").map(PathBuf::from).or_else(|| {
        let output = Command::new("pyenv").arg("root").output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()).join("versions"))
    });
    let Some(entries) = folder.and_then(|folder| folder.read_dir().ok()) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Files that hold a runtime: libraries and programs of the interpreters found.
fn runtimes() -> Vec<PathBuf> {
    let in_home = |home: PathBuf| {
        let files = |folder: &str| home.join(folder).read_dir().into_iter().flatten().flatten().map(|e| e.path());
        files("lib").chain(files("bin")).chain(files("usr/bin")).filter(|p| !p.is_symlink()).collect::<Vec<_>>()
    };
    let is_runtime = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libpython3.") && name.contains(".so") || name.starts_with("python3.")
    };
    interpreters().into_iter().flat_map(in_home).filter(is_runtime).collect()
}

fn what_real_interpreters_publish_agrees_with_their_tables() {
    let mut compared = 0;
    for path in runtimes() {
        let Ok(bytes) = fs::read(&path) else { continue };
        let Ok(file) = object::File::parse(&*bytes) else { continue };
        let Some(runtime) = file.section_by_name(".PyRuntime") else { continue };
        let data = runtime.data().unwrap_or_default();
        let Ok(published) = DebugOffsets::parse(&data[..data.len().min(DebugOffsets::MAX_SIZE)]) else { continue };
        let name = path.file_name().unwrap().to_string_lossy();
        let debug = name.contains("3.13d") || name.contains("3.14d") || name.contains("3.15d");
        let build = match (published.free_threaded(), debug) {
            (false, false) => Build::Default,
            (false, true) => Build::Debug,
            (true, false) => Build::FreeThreaded,
            (true, true) => Build::DebugFreeThreaded,
        };
        let mut layout = Layout::load(&Layout::candidates(published.version(), build)[0]);
        let mut overlay = layout.overlay(&published);
        // The main interpreter's end, and with it the runtime's, grows in maintenance releases.
        overlay.corrected.retain(|c| !(c.field == "size" && ["interp", "runtime"].contains(&c.struct_name)));
        assert_eq!(overlay.corrected, [], "{}: {}", path.display(), layout.name);
        println!("{}: {} agrees in {} offsets", path.display(), layout.name, overlay.agreed);
        compared += 1;
    }
    if compared == 0 {
        eprintln!("skipped: no interpreter that publishes offsets; set HEAPSONDE_INTERPRETERS to a folder of them");
    }
}

fn a_table_made_again_from_an_interpreter_is_the_same() {
    let mut compared = 0;
    for home in interpreters() {
        let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(candidate) = Candidate::all().iter().find(|c| c.name == name) else { continue };
        let minor = format!("3.{}", candidate.from.minor);
        let library = home.join(format!("lib/libpython{minor}.so.1.0"));
        if !library.exists() {
            continue;
        }
        let modules = home.join(format!("lib/python{minor}/lib-dynload")).read_dir().unwrap();
        let mut modules: Vec<_> = modules.map(|entry| entry.unwrap().path()).collect();
        modules.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let own = ["_asyncio", "_collections", "_elementtree", "_functools", "_io", "_queue", "_thread", "array"];
            own.iter().any(|module| name.split('.').next() == Some(module))
        });
        let output = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--example", "generate-layouts", "--", "--name", candidate.name])
            .args(["--from", &candidate.from.to_string(), "--until", &candidate.until.to_string()])
            .args(["--build", "default", "--source", "a test"])
            .arg(&library)
            .args(&modules)
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let kept = json(candidate);
        for part in ["structs", "constants", "debug_offsets"] {
            assert_eq!(made[part], kept[part], "{name}: {part}");
        }
        compared += 1;
    }
    if compared == 0 {
        eprintln!("skipped: no interpreter with debug information; set HEAPSONDE_INTERPRETERS to a folder of them");
    }
}
