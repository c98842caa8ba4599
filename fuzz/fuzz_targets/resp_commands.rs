//! A client's requests, cut arbitrarily, through the reader of commands.
//!
//! The first byte is the size of the pieces. The short way for commands that
//! are there as a whole, and the long way for those in pieces, must find the
//! same arguments and the same end; what is found encodes to the same command.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waystation_wire::resp::{Command, RespError, RespLimits, Scanner, put_command};

const LIMITS: RespLimits = RespLimits {
    bytes_max: 4096,
    line_max: 256,
    elements_max: 64,
    depth_max: 4,
};

type Arguments = Vec<Vec<u8>>;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let (commands, fault) = read(stream, stream.len());
    let pieces = read(stream, usize::from(cut).max(1));
    assert_eq!((&commands, &fault), (&pieces.0, &pieces.1));
    for arguments in commands.iter().filter(|arguments| !arguments.is_empty()) {
        let list: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let mut bytes = Vec::new();
        put_command(&mut bytes, &list);
        let again = Command::read(&mut Scanner::new(), &bytes, &RespLimits::default());
        let again = again.expect("it was encoded").expect("it is whole");
        assert_eq!((&*again.arguments, again.length), (&list[..], bytes.len()));
    }
});

/// The commands, and why the stream cannot be followed further, if so.
fn read(stream: &[u8], cut: usize) -> (Vec<Arguments>, Option<RespError>) {
    let (mut commands, mut start, mut arrived) = (Vec::new(), 0, 0);
    let mut scanner = Scanner::new();
    loop {
        match Command::read(&mut scanner, &stream[start..arrived], &LIMITS) {
            Err(error) => return (commands, Some(error)),
            Ok(Ok(command)) => {
                assert!(command.length > 0 && command.length <= arrived - start);
                start += command.length;
                commands.push(command.arguments.iter().map(|one| one.to_vec()).collect());
            }
            Ok(Err(need)) => {
                assert!(need > arrived - start);
                if arrived == stream.len() {
                    return (commands, None);
                }
                arrived = arrived.saturating_add(cut.max(1)).min(stream.len());
            }
        }
    }
}
