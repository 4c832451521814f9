//! The `pullet` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pullet::cli::main(std::env::args_os())
}
