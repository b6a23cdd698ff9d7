//! One hot part, so many times, for a tool that counts instructions: `tests/instructions` runs it.

mod parts;

/// The binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Arguments: a part's name and how many times; none: the names. Others, such as cargo's, are passed over.
#[expect(clippy::print_stdout, reason = "the names are what it is asked for")]
fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let (Some(name), times) = (arguments.next(), arguments.next()) else {
        parts::PARTS.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    let times: u32 = times.and_then(|times| times.parse().ok()).expect("how many times");
    let (_, make) = parts::PARTS.iter().find(|(part, _)| *part == name).expect("a part's name");
    let mut part = make();
    (0..times).for_each(|_| part());
}
