//! Every bound of the native frame, with what happens when it is reached.

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 80;

/// Largest frame in bytes, header and body together: 1 MiB.
///
/// A received header that announces more is [`FrameError::TooLarge`], before
/// any of the body is read. A larger body is sent as several frames.
///
/// [`FrameError::TooLarge`]: crate::FrameError::TooLarge
pub const FRAME_LEN_MAX: usize = 1024 * 1024;

/// Largest body of one frame in bytes.
pub const BODY_LEN_MAX: usize = FRAME_LEN_MAX - HEADER_LEN;

/// Largest body of one message in bytes, over all of its frames: 64 MiB.
///
/// Sending more is [`TooLarge`]; receiving more is
/// [`AssembleError::MessageTooLarge`].
///
/// [`TooLarge`]: crate::TooLarge
/// [`AssembleError::MessageTooLarge`]: crate::AssembleError::MessageTooLarge
pub const MESSAGE_LEN_MAX: usize = 64 * 1024 * 1024;

/// Most messages that may be partly received on one connection at a time.
///
/// One more is [`AssembleError::TooManyPartials`].
///
/// [`AssembleError::TooManyPartials`]: crate::AssembleError::TooManyPartials
pub const PARTIALS_MAX: usize = 16;

/// Most bytes that all partly received messages of one connection may hold.
///
/// More is [`AssembleError::TooManyBytes`].
///
/// [`AssembleError::TooManyBytes`]: crate::AssembleError::TooManyBytes
pub const PARTIAL_LEN_SUM_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(BODY_LEN_MAX > 0 && MESSAGE_LEN_MAX >= BODY_LEN_MAX);
const _: () = assert!(
    MESSAGE_LEN_MAX <= u32::MAX as usize,
    "a header counts a body in 32 bits"
);
