//! Encoded `ActionResult` messages in back ends that do not interpret them.

use bitzel_proto::Digest;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::message_memory::decode_message;
use bitzel_proto::reapi::ActionResult;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};

use crate::error::{BackEndFailure, Error};

/// Reads the result of `action` from the body of a response. `place` is for messages. The body may contain anything.
pub(crate) async fn read_result(
    action: Digest,
    body: impl Stream<Item = Result<Bytes, Error>>,
    place: &str,
) -> Result<ActionResult, Error> {
    let collected = body.try_fold(Vec::new(), |mut all, chunk: Bytes| async move {
        all.extend_from_slice(&chunk);
        if all.len() > MAX_MESSAGE_SIZE {
            let context = format_args!(
                "the result of action {action} in {place} has more than {MAX_MESSAGE_SIZE} bytes"
            );
            return Err(Error::back_end(context, BackEndFailure::Faulty)("too many bytes"));
        }
        Ok(all)
    });
    decode_message::<ActionResult>(&collected.await?).map_err(|source| Error::Decode {
        context: format!("the result of action {action} in {place} is not a valid message"),
        source,
    })
}
