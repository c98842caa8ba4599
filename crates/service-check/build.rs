//! Messages, handlers and stubs from `proto/demo.proto`.

fn main() -> Result<(), waystation_service_build::Error> {
    waystation_service_build::Config::new()
        .include("proto")
        .compile(&["proto/demo.proto"])
}
