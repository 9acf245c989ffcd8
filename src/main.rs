//! The program: everything it does is in the library, by [`toolgate::cli::run`].

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    toolgate::cli::run()
}
