//! `/ac/{hash}`: results of Actions, and other values that clients keep there.

use axum::body::Body;
use bitzel_access::{Permission, ResponseMemory};
use bitzel_cas::blob_store::one_chunk;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use faster_hex::hex_string;
use http::{Response, StatusCode};
use metrics::counter;
use prost::Message as _;
use tonic::Status;

use super::body::{bytes_of, empty};
use super::encoding::UploadEncoding;
use super::spool::Spooled;
use super::values::{KeyKind, ValueKey};
use super::{CacheRequest, HttpCacheService};
use crate::services::action_cache::check_digests;

/// Size above which the number of results that are decoded at the same time is limited.
const LARGE_RESULT_BYTES: u64 = 1 << 20;

impl HttpCacheService {
    pub(super) async fn get_result(
        &self,
        request: &CacheRequest,
        function: DigestFunction,
        hash: [u8; 32],
    ) -> Result<Response<Body>, Status> {
        request.authorize(Permission::ActionCacheRead)?;
        let result = self.find_result(request, function, hash).await?;
        let key = value_key(request, function, hash);
        let value = match result {
            Some(_) => None,
            None => self.find_value(request, &key).await?,
        };
        let outcome = if result.is_some() || value.is_some() {
            "hit"
        } else {
            "miss"
        };
        counter!("bitzel_action_cache_lookups_total", "outcome" => outcome).increment(1);
        match (result, value) {
            (Some(result), _) => {
                let length = result.encoded_len() as u64;
                let memory = ResponseMemory::for_message(&request.extensions, length).await?;
                let bytes = Bytes::from(result.encode_to_vec());
                let mut response = bytes_of(one_chunk(bytes), Some(length));
                response.extensions_mut().insert(memory);
                Ok(response)
            }
            (None, Some(value)) => self.send(request, value.digest).await,
            (None, None) => Err(Status::not_found(format!(
                "the action cache holds no result of action {}",
                hex_string(&hash)
            ))),
        }
    }

    pub(super) async fn put_result(
        &self,
        request: &CacheRequest,
        body: Body,
        function: DigestFunction,
        hash: [u8; 32],
    ) -> Result<Response<Body>, Status> {
        request.authorize(Permission::ActionCacheWrite)?;
        let upload = UploadEncoding::of(&request.headers)?;
        let value = self
            .receive(request, body, upload, DigestFunction::Sha256)
            .await?;
        let _permit = if value.digest().size_bytes() > LARGE_RESULT_BYTES {
            self.large_results.acquire().await.ok()
        } else {
            None
        };
        if let Some(result) = result_in(&value, function).await? {
            let action = self.action(request, function, hash).await?;
            self.cache.put(&request.instance, action, result).await?;
            return Ok(empty(StatusCode::OK));
        }
        if self.find_result(request, function, hash).await?.is_some() {
            return Err(Status::failed_precondition(
                "this key has the result of an Action, which another value must not replace",
            ));
        }
        let key = value_key(request, function, hash);
        self.keep_value(request, &key, value).await?;
        Ok(empty(StatusCode::OK))
    }

    /// Finds the result of the Action with this hash. If the Action itself is not in the store, its size is not known,
    /// and the result may be under the key that [`Self::put_result`] uses then.
    async fn find_result(
        &self,
        request: &CacheRequest,
        function: DigestFunction,
        hash: [u8; 32],
    ) -> Result<Option<ActionResult>, Status> {
        let action = self.action(request, function, hash).await?;
        if let Some(result) = self.cache.get(&request.instance, action).await? {
            return Ok(Some(result));
        }
        if action.size_bytes() == 0 {
            return Ok(None);
        }
        let without_size = Digest::new(function, hash, 0);
        Ok(self.cache.get(&request.instance, without_size).await?)
    }

    /// Digest of the Action with this hash, as gRPC clients use it. Each look-up extends the life of the Action in the
    /// store.
    async fn action(
        &self,
        request: &CacheRequest,
        function: DigestFunction,
        hash: [u8; 32],
    ) -> Result<Digest, Status> {
        let action = self.store(request).resolve(function, hash).await?;
        Ok(action.unwrap_or_else(|| Digest::new(function, hash, 0)))
    }
}

fn value_key(request: &CacheRequest, function: DigestFunction, hash: [u8; 32]) -> ValueKey {
    let name = hex_string(&hash);
    let name = function
        .resource_segment()
        .map_or_else(|| name.clone(), |segment| format!("{segment}/{name}"));
    ValueKey::new(KeyKind::Result, &request.instance, &name)
}

/// Decodes a value that is exactly the encoding of a result. Other values would be changed by decoding and encoding.
async fn result_in(value: &Spooled, function: DigestFunction) -> Result<Option<ActionResult>, Status> {
    let size = value.digest().size_bytes();
    if size == 0 || size > MAX_MESSAGE_SIZE as u64 {
        return Ok(None);
    }
    let bytes = value.bytes().await?;
    let Ok(result) = ActionResult::decode(bytes.clone()) else {
        return Ok(None);
    };
    let is_exact = result.encoded_len() == bytes.len() && result.encode_to_vec() == bytes;
    Ok((is_exact && check_digests(function, &result).is_ok()).then_some(result))
}
