//! The command line: each file of `cli/` is a session with its expected output and exit codes. What needs a mount is
//! tested by `tests/suites/cli.sh`.

#[test]
fn sessions() {
    trycmd::TestCases::new()
        .register_bin("kmsfs", std::path::Path::new(env!("CARGO_BIN_EXE_kmsfs")))
        .env("KMSFS_HOME", "kms")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("HOME", "/nonexistent")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .case("tests/integration/cli/*.trycmd");
}
