//! Compiles the .proto files with protox, so that a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["message", "error", "transaction", "queue", "stream", "admin"]
        .map(|name| format!("halfmq/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=halfmq");
    let descriptors = protox::compile(&files, ["."])?;
    tonic_prost_build::configure().bytes(".halfmq.v1").compile_fds(descriptors)?;
    Ok(())
}
