//! Compiles the .proto files with protox, so that a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let native = ["message", "error", "transaction", "queue", "stream", "admin"]
        .map(|name| format!("halfmq/v1/{name}.proto"));
    let rocketmq = ["definition", "service"].map(|name| format!("apache/rocketmq/v2/{name}.proto"));
    println!("cargo:rerun-if-changed=halfmq");
    println!("cargo:rerun-if-changed=apache");
    let descriptors = protox::compile(native.iter().chain(&rocketmq), ["."])?;
    tonic_prost_build::configure()
        .bytes(".halfmq.v1")
        .bytes(".apache.rocketmq.v2")
        .compile_fds(descriptors)?;
    Ok(())
}
