//! Compiles the subset of the Container Runtime Interface in `proto/` into client code.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/cri.proto");
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(true)
        .compile_protos(&["proto/cri.proto"], &["proto"])?;
    Ok(())
}
