use kmsfs::sys::reserve::Reserving;

#[global_allocator]
static ALLOCATOR: Reserving = Reserving::new();

fn main() -> std::process::ExitCode {
    kmsfs::cli::main()
}
