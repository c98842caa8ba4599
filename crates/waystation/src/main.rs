//! Entry point of the `waystation` binary; everything is in its library.

use std::process::ExitCode;

fn main() -> ExitCode {
    waystation::main()
}
