//! Makes Rust of `proto/node.proto`, without a protobuf compiler of the system's.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["node.proto"], ["proto"])?;
    // As `Bytes`, what comes is not copied out of the buffer that it was read into.
    tonic_prost_build::configure().bytes(".shoal.v1").compile_fds(files)?;
    Ok(())
}
