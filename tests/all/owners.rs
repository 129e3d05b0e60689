//! Tests that the culprit of a leak is the first row of `histo --by holder`, the widest frame of the owners flame
//! graph, and the first chain of `why`: for several kinds of leaks, each of which holds most of its heap.
//! At each landing every second kind of leak is tried on each minor version, the others on its neighbours; all of them
//! on all versions with `--ignored`.
//!
//!     cargo test --test all -- owners    HEAPSONDE_ONLY=3.12,sid-3.14 selects, HEAPSONDE_BIN another tool

use crate::case::TestCase;
use crate::common::interpreters::{self, Interpreter};
use crate::common::target::Target;
use crate::common::tool;

/// A program that keeps `Parcel`s, and how the tool must speak of who keeps them.
struct Keeper {
    name: &'static str,
    program: &'static str,
    /// The first row of `histo --by holder`.
    holder: &'static str,
    /// How most of the flame graph's stacks start.
    stack: &'static str,
    /// What the first chain of `why Parcel` says.
    chain: &'static str,
}

/// What all programs start with.
const HEAD: &str = r"
import os, sys, types
class Parcel:
    def __init__(self, number): self.label = b'%d' % number + b'.' * 700
def module(name, text):
    made = sys.modules[name] = types.ModuleType(name)
    exec(text, made.__dict__)
def ready(): os.write(1, b'ready %d\n' % os.getpid())
def wait(): return os.read(0, 1)
";

const KEEPERS: &[Keeper] = &[
    Keeper {
        name: "two names",
        program: r"
module('shelf', 'STOCK = []')
from shelf import STOCK
STOCK.extend(map(Parcel, range(8000)))
ready(); wait()
",
        holder: "shelf.STOCK (also __main__.STOCK)",
        stack: "shelf;STOCK list (also __main__.STOCK);[…] Parcel",
        chain: "shelf.STOCK[…]",
    },
    Keeper {
        name: "two names and an extension",
        program: r"
module('shop', 'class App: pass\nCACHE = {}\napp = App()\napp.extensions = {\'cache\': CACHE}')
from shop import CACHE
CACHE.update((number, Parcel(number)) for number in range(8000))
ready(); wait()
",
        holder: "shared by shop.CACHE, __main__.CACHE and shop.app.extensions",
        stack: "shared by shop.CACHE, __main__.CACHE and shop.app.extensions;dict;[…] Parcel",
        chain: "shop.CACHE[…]",
    },
    Keeper {
        name: "two lists of one dict",
        program: r"
class Bus: pass
bus = Bus()
bus.topics = {'opened': list(map(Parcel, range(8000)))}
bus.topics['closed'] = list(bus.topics['opened'])
ready(); wait()
",
        holder: "__main__.bus.topics",
        stack: "__main__;bus Bus;topics dict;[…] Parcel",
        chain: "__main__.bus.topics['opened'][…]",
    },
    Keeper {
        name: "thread with a name of its own",
        program: r"
import threading
started = threading.Semaphore(0); ended = threading.Semaphore(0)
def consume():
    orders = list(map(Parcel, range(8000)))
    started.release(); ended.acquire()
number = 7
threading.Thread(target=consume, name=f'order-consumer-{number}', daemon=True).start(); started.acquire()
ready(); wait()
",
        holder: "thread order-consumer-7, consume() at <string>:15, local orders",
        stack: "thread order-consumer-7, consume() at <string>:15, local orders list;[…] Parcel",
        chain: "consume() at <string>:15, local orders[…]",
    },
    Keeper {
        // As the dict that interns strings, which keeps nothing.
        name: "keys that are their own values",
        program: r"
SEEN = {}
for number in range(8000):
    parcel = Parcel(number)
    SEEN[parcel] = parcel
del parcel
ready(); wait()
",
        holder: "__main__.SEEN",
        stack: "__main__;SEEN dict;[…] Parcel",
        chain: "__main__.SEEN[…]",
    },
    Keeper {
        name: "class attribute",
        program: r"
module('books', 'class Ledger:\n    pages = {}')
module('desk', 'from books import Ledger')
from books import Ledger
Ledger.pages.update((number, Parcel(number)) for number in range(8000))
ready(); wait()
",
        holder: "books.Ledger.pages",
        stack: "books;Ledger type;pages dict;[…] Parcel",
        chain: "books.Ledger.pages[…]",
    },
    Keeper {
        name: "append",
        program: r"
ARRIVED = list(map(Parcel, range(8000)))
def receive():
    ready()
    ARRIVED.append(wait())
receive()
",
        holder: "__main__.ARRIVED",
        stack: "__main__;ARRIVED list;[…] Parcel",
        chain: "__main__.ARRIVED[…]",
    },
    Keeper {
        name: "loop",
        program: r"
SENT = {number: Parcel(number) for number in range(8000)}
def send():
    for parcel in SENT.values():
        ready(); wait()
send()
",
        holder: "__main__.SENT",
        stack: "__main__;SENT dict;[…] Parcel",
        chain: "__main__.SENT[…]",
    },
    Keeper {
        name: "local alias",
        program: r"
class Depot:
    def __init__(self): self.racks = list(map(Parcel, range(8000)))
    def work(self):
        racks = self.racks
        heavy = [parcel for parcel in racks]
        ready(); wait()
DEPOT = Depot()
DEPOT.work()
",
        holder: "__main__.DEPOT.racks",
        stack: "__main__;DEPOT Depot;racks list;[…] Parcel",
        chain: "__main__.DEPOT.racks[…]",
    },
    Keeper {
        name: "at exit",
        program: r"
import atexit
class Closer:
    def __init__(self, number): self.parcel = Parcel(number)
    def close(self): pass
for number in range(8000): atexit.register(Closer(number).close)
ready(); wait()
",
        holder: "atexit callbacks[…]",
        stack: "atexit callbacks[…];__self__ Closer",
        chain: "atexit callbacks[…].__self__.parcel",
    },
    Keeper {
        name: "two holders",
        program: r"
class Hub: pass
hub = Hub(); hub.by_number = {}
LATE = []
for number in range(8000):
    parcel = Parcel(number); hub.by_number[number] = parcel; LATE.append(parcel)
del parcel
ready(); wait()
",
        holder: "shared by __main__.LATE and __main__.hub.by_number",
        stack: "__main__;shared by __main__.LATE and __main__.hub.by_number;Parcel",
        chain: "__main__.LATE[…]",
    },
    Keeper {
        name: "few and big",
        program: r"
class Freight:
    def __init__(self): self.parcel = Parcel(1); self.parcel.label = bytearray(4000000)
YARD = (Freight(), Freight())
ready(); wait()
",
        holder: "__main__.YARD",
        stack: "__main__;YARD tuple;[…] Freight",
        chain: "__main__.YARD[…].parcel",
    },
    Keeper {
        name: "linked list",
        program: r"
last = None
for number in range(20000):
    parcel = Parcel(number); parcel.before = last; last = parcel
del parcel
ready(); wait()
",
        holder: "__main__.last",
        stack: "__main__;last Parcel;before Parcel",
        chain: "__main__.last.before",
    },
    Keeper {
        name: "numbered names",
        program: r"
for number in range(8000): globals()['_%d' % number] = Parcel(number)
ready(); wait()
",
        holder: "__main__._*",
        stack: "__main__;_* Parcel",
        chain: "__main__._*",
    },
    Keeper {
        name: "thread of a method",
        program: r"
import threading
class Mill:
    def __init__(self): self.sacks = list(map(Parcel, range(8000)))
    def grind(self): started.release(); ended.acquire()
mill = Mill(); started = threading.Semaphore(0); ended = threading.Semaphore(0)
threading.Thread(target=mill.grind, daemon=True).start(); started.acquire()
ready(); wait()
",
        holder: "__main__.mill.sacks",
        stack: "__main__;mill Mill;sacks list;[…] Parcel",
        chain: "__main__.mill.sacks[…]",
    },
    Keeper {
        name: "thread's own",
        program: r"
import threading
own = threading.local(); started = threading.Semaphore(0); ended = threading.Semaphore(0)
def work():
    own.batch = list(map(Parcel, range(8000)))
    started.release(); ended.acquire()
threading.Thread(target=work, name='mover-2', daemon=True).start(); started.acquire()
ready(); wait()
",
        holder: "__main__.own.batch of thread mover-2",
        stack: "__main__;own _local;batch of thread mover-2 list;[…] Parcel",
        chain: "__main__.own.batch of thread mover-2[…]",
    },
    Keeper {
        name: "bounded cache",
        program: r"
import functools
class Scale:
    def __init__(self, number): self.parcel = Parcel(number)
    @functools.lru_cache(maxsize=9000)
    def weigh(self, unit): return unit
for number in range(8000): Scale(number).weigh(1)
ready(); wait()
",
        holder: "__main__.Scale.weigh.cache",
        stack: "__main__;Scale type;weigh _lru_cache_wrapper;cache dict;",
        chain: "__main__.Scale.weigh.cache",
    },
    Keeper {
        name: "suspended coroutine",
        program: r"
import asyncio
class Dock:
    def __init__(self): self.freight = list(map(Parcel, range(40000)))
    async def watch(self):
        freight = self.freight
        await asyncio.get_running_loop().create_future()
        freight.clear()
async def run():
    watcher = asyncio.ensure_future(dock.watch())
    await asyncio.sleep(0)
    ready(); wait()
dock = Dock()
asyncio.run(run())
",
        holder: "__main__.dock.freight",
        stack: "__main__;dock Dock;freight list;[…] Parcel",
        chain: "__main__.dock.freight[…]",
    },
    Keeper {
        name: "event loop",
        program: r"
import asyncio
async def deliver(number):
    parcels = [Parcel(number) for _ in range(5)]
    await asyncio.sleep(3600)
async def run():
    for number in range(9000): asyncio.ensure_future(deliver(number))
    await asyncio.sleep(0); await asyncio.sleep(0)
    ready(); wait()
asyncio.run(run())
",
        holder: "9000 tasks, deliver() at <string>:14, local parcels",
        stack: "9000 tasks, deliver() at <string>:14;",
        chain: "deliver() at <string>:14",
    },
    Keeper {
        name: "signal handler",
        program: r"
import signal
class Closer:
    def __init__(self): self.open = list(map(Parcel, range(8000)))
    def stop(self, number, frame): self.open.clear()
signal.signal(signal.SIGTERM, Closer().stop)
ready(); wait()
",
        holder: "signal handler of SIGTERM",
        stack: "signal handler of SIGTERM;__self__ Closer;open list;[…] Parcel",
        chain: "signal handler of SIGTERM.__self__.open[…]",
    },
    Keeper {
        // A handler uses what it is bound to.
        name: "handled by a method",
        program: r"
import atexit, signal
class Closer:
    def __init__(self): self.open = list(map(Parcel, range(8000)))
    def stop(self, *_): self.open.clear()
CLOSER = Closer()
signal.signal(signal.SIGTERM, CLOSER.stop)
atexit.register(CLOSER.stop)
ready(); wait()
",
        holder: "__main__.CLOSER.open",
        stack: "__main__;CLOSER Closer;open list;[…] Parcel",
        chain: "__main__.CLOSER.open[…]",
    },
    Keeper {
        name: "closure",
        program: r"
def remembering(function):
    known = {}
    def call(number):
        if number not in known: known[number] = function(number)
        return known[number]
    return call
pack = remembering(Parcel)
for number in range(8000): pack(number)
ready(); wait()
",
        holder: "__main__.pack.<closure>.known",
        stack: "__main__;pack function;<closure>.known dict;[…] Parcel",
        chain: "__main__.pack.<closure>.known[…]",
    },
    Keeper {
        name: "variable of a running closure",
        program: r"
import threading
def work():
    known = []
    def pack(number): known.append(Parcel(number))
    for number in range(8000): pack(number)
    ready(); wait()
work()
",
        holder: "thread MainThread, work() at <string>:16, local known",
        stack: "thread MainThread, work() at <string>:16, local known list;[…] Parcel",
        chain: "work() at <string>:16, local known[…]",
    },
    Keeper {
        // Tasks whose names are data, of a task that runs.
        name: "tasks of a running one",
        program: r"
import asyncio, binascii
async def deliver(number):
    parcels = [Parcel(number) for _ in range(5)]
    await asyncio.sleep(3600)
async def run():
    tasks = []
    for number in range(9000):
        name = 'for ' + binascii.hexlify(os.urandom(4)).decode()
        tasks.append(asyncio.get_running_loop().create_task(deliver(number), name=name))
    await asyncio.sleep(0); await asyncio.sleep(0)
    ready(); wait()
asyncio.run(run())
",
        holder: "9000 tasks, deliver() at <string>:14, local parcels",
        stack: "9000 tasks, deliver() at <string>:14;",
        chain: "deliver() at <string>:14",
    },
    Keeper {
        // The thread that runs a task is not a second task.
        name: "running task",
        program: r"
import asyncio
async def run():
    parcels = list(map(Parcel, range(40000)))
    ready(); wait()
    parcels.clear()
asyncio.run(run())
",
        holder: "task Task-1, run() at <string>:14, local parcels",
        stack: "task Task-1, run() at <string>:14;",
        chain: "run() at <string>:14, local parcels[…]",
    },
    Keeper {
        // Whoever awaits is named before the event loop, which has it as an argument for later.
        name: "callback's argument",
        program: r"
import asyncio
class Shop:
    def __init__(self): self.sales = list(map(Parcel, range(20000)))
def close(shop): shop.sales.clear()
async def trade():
    shop = Shop()
    asyncio.get_running_loop().call_later(3600, close, shop)
    asyncio.get_running_loop().call_soon(lambda: (ready(), wait()))
    await asyncio.get_running_loop().create_future()
asyncio.run(trade())
",
        holder: "shared by task Task-1, trade() at <string>:19, local shop and event loop of thread \
                 MainThread._scheduled",
        stack: "shared by task Task-1, trade() at <string>:19, local shop and event loop of thread \
                MainThread._scheduled;Shop;sales list;[…] Parcel",
        chain: "trade() at <string>:19, local shop.sales[…]",
    },
    Keeper {
        // The library's table of what to do at the end has what the program has a name for, and each job knows its
        // pool.
        name: "pool that its jobs know",
        program: r"
import weakref
class Job:
    def __init__(self, pool, number): self.pool, self.jobs, self.parcel = pool, pool.jobs, Parcel(number)
class Pool:
    def __init__(self):
        self.jobs = {}
        weakref.finalize(self, dict.clear, self.jobs)
pool = Pool()
for number in range(8000): pool.jobs[number] = Job(pool, number)
ready(); wait()
",
        holder: "shared by __main__.pool and weakref.finalize._registry",
        stack: "shared by __main__.pool and weakref.finalize._registry;dict;[…] Job",
        chain: "__main__.pool.jobs[…].parcel",
    },
    Keeper {
        // What is awaited has an argument that is a variable of whoever awaits it.
        name: "argument of what is awaited",
        program: r"
import asyncio
async def serve(shop): await asyncio.get_running_loop().create_future(); shop.sales.clear()
class Shop:
    def __init__(self): self.sales = list(map(Parcel, range(20000)))
async def trade():
    shop = Shop()
    asyncio.get_running_loop().call_soon(lambda: (ready(), wait()))
    await serve(shop)
asyncio.run(trade())
",
        holder: "task Task-1, trade() at <string>:18, local shop.sales",
        stack: "task Task-1, trade() at <string>:18;",
        chain: "trade() at <string>:18, local shop.sales[…]",
    },
    Keeper {
        // A program that never imports threading.
        name: "variable of the main thread",
        program: r"
def work():
    parcels = list(map(Parcel, range(8000)))
    ready(); wait()
work()
",
        holder: "thread MainThread, work() at <string>:13, local parcels",
        stack: "thread MainThread, work() at <string>:13, local parcels list;[…] Parcel",
        chain: "work() at <string>:13, local parcels[…]",
    },
    Keeper {
        name: "suspended generator",
        program: r"
def read():
    parcels = list(map(Parcel, range(8000)))
    for parcel in parcels: yield parcel
READERS = {0: read()}
next(READERS[0])
ready(); wait()
",
        holder: "__main__.READERS",
        stack: "__main__;READERS dict;[…] generator;local parcels list;[…] Parcel",
        chain: "__main__.READERS[…], local parcels[…]",
    },
];

/// The tests of this file.
pub fn cases() -> Vec<TestCase> {
    let mut cases = Vec::new();
    for interpreter in interpreters::find_and_say() {
        let minor = usize::from(interpreter.version.1);
        for (turn, name) in [(0, "culprits"), (1, "other-culprits")] {
            // Who owns an object does not depend on the allocator.
            let is_first = interpreter.is_first && interpreter.allocator() == "plain";
            let name = format!("{}/{name}", interpreter.name);
            let interpreter = interpreter.clone();
            let keepers = KEEPERS.iter().skip((minor + turn) % 2).step_by(2);
            let test = move || culprits_are_named(&interpreter, keepers);
            cases.push(TestCase::new(name, test).ignored_if(!is_first || turn == 1));
        }
    }
    cases
}

/// Until 3.13 the callbacks of `atexit` are an array of C, since then a list of tuples: written as the former. Until
/// 3.10 frames are objects: written as later.
fn as_array(text: &str) -> String {
    match text {
        "atexit callbacks" => "atexit callbacks[…]".to_owned(),
        text => text
            .replace(";gi_frame frame;local ", ";local ")
            .replace(" frame;local ", ", local ")
            .replace(".cr_frame, local ", ", local ")
            .replace(".gi_frame, local ", ", local ")
            .replace("atexit callbacks;[…] tuple;[…] method;", "atexit callbacks[…];")
            .replace("atexit callbacks[…][…]", "atexit callbacks[…]"),
    }
}

fn culprits_are_named(interpreter: &Interpreter, keepers: impl Iterator<Item = &'static Keeper>) -> Result<(), String> {
    let mut wrong = Vec::new();
    for keeper in keepers {
        let target = Target::spawn(interpreter, &format!("{HEAD}{}", keeper.program), &[], &[])?;
        let pid = target.pid().to_string();
        let name = keeper.name;
        let holders = tool::run(&["histo", "--by", "holder", "--json", &pid])?.ok()?.json()?;
        let total = holders["totals"]["shallow_bytes"].as_u64().unwrap_or(0);
        let rows = holders["types"].as_array().map(Vec::as_slice).unwrap_or_default();
        let bytes = |row: &serde_json::Value| row["shallow_bytes"].as_u64().unwrap_or(0);
        let first = rows.first().map(|row| (as_array(row["type"].as_str().unwrap_or_default()), bytes(row)));
        // The heap of an interpreter that does nothing is smaller than any of the leaks.
        if first.as_ref().is_none_or(|(holder, bytes)| holder != keeper.holder || 2 * bytes < total) {
            wrong.push(format!("{name}: {first:?} of {total} bytes comes first"));
        }
        if rows.iter().map(bytes).sum::<u64>() != total {
            wrong.push(format!("{name}: the rows do not add up to {total}"));
        }
        let drawn = tool::run(&["flamegraph", "-f", "folded", &pid])?.ok()?.text();
        let drawn: Vec<String> = drawn.lines().map(as_array).collect();
        let lines = drawn.iter().filter_map(|line| line.rsplit_once(' ')).map(|(stack, bytes)| (stack, bytes.parse()));
        let lines: Vec<(&str, u64)> = lines.map(|(stack, bytes)| (stack, bytes.unwrap_or(0))).collect();
        let width = |start: &str| lines.iter().filter(|line| line.0.starts_with(start)).map(|line| line.1).sum::<u64>();
        if 2 * width(keeper.stack) < total || width("") != total {
            let widest = lines.iter().max_by_key(|line| line.1);
            let of = width("");
            wrong.push(format!("{name}: {} is {} of {of} bytes, {widest:?}", keeper.stack, width(keeper.stack)));
        }
        let largest = tool::run(&["why", "--json", &pid])?.ok()?.json()?["owners"].clone();
        if as_array(largest[0]["holder"].as_str().unwrap_or_default()) != keeper.holder {
            wrong.push(format!("{name}: {} is the largest owner", largest[0]));
        }
        let chains = tool::run(&["why", "--json", &pid, "Parcel"])?.ok()?.json()?["chains"].clone();
        if !chains[0]["shape"].as_str().is_some_and(|shape| as_array(shape).starts_with(keeper.chain)) {
            wrong.push(format!("{name}: {}", chains[0]));
        }
        let others = chains[0]["also_held_by"].as_array().map_or(0, Vec::len);
        let second = &chains[0]["also_held_by"][0];
        let is_second = second["shape"] == "__main__.hub.by_number[…]" && second["objects"] == 8000;
        if (name == "two holders") != (others == 1 && is_second) {
            wrong.push(format!("{name}: also held by {}", chains[0]["also_held_by"]));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}
