//! Compiles the interfaces in `proto/` into client code: the runtime's, the storage drivers', and their registration.

const FILES: [&str; 3] = ["proto/cri.proto", "proto/csi.proto", "proto/registration.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    tonic_prost_build::configure().build_server(false).build_client(true).compile_protos(&FILES, &["proto"])?;
    Ok(())
}
