//! The heapsonde program. Everything is in the library.

fn main() -> std::process::ExitCode {
    heapsonde::cli::run()
}
