//! Forwarding of the calls that a decorator does not change.

// The types in the signatures that the macro writes.
pub use bitzel_proto::{Digest, DigestFunction};
pub use bytes::Bytes;
pub use futures::future::BoxFuture as Call;

/// Implements methods of [`BlobStore`](crate::BlobStore) by forwarding them to a field: `forward_blob_store!(inner:
/// find_missing, lease);` within the `impl` block of a decorator.
///
/// The trait has no defaults for `lease` and `resolve`, so the compiler names a method that a decorator neither
/// implements nor forwards. A forwarded call allocates nothing: the future of the inner store is returned as it is.
#[macro_export]
macro_rules! forward_blob_store {
    ($inner:ident: $($method:ident),+ $(,)?) => {
        $($crate::forward_blob_store! { @method $method $inner })+
    };
    (@method find_missing $inner:ident) => {
        fn find_missing<'store, 'digests, 'call>(
            &'store self,
            digests: &'digests [$crate::blob_store::forwarding::Digest],
        ) -> $crate::blob_store::forwarding::Call<'call, Result<Vec<$crate::blob_store::forwarding::Digest>, $crate::Error>>
        where
            'store: 'call,
            'digests: 'call,
            Self: 'call,
        {
            self.$inner.find_missing(digests)
        }
    };
    (@method read $inner:ident) => {
        fn read<'store, 'call>(
            &'store self,
            digest: $crate::blob_store::forwarding::Digest,
            range: $crate::BlobRange,
        ) -> $crate::blob_store::forwarding::Call<'call, Result<$crate::BlobStream, $crate::Error>>
        where
            'store: 'call,
            Self: 'call,
        {
            self.$inner.read(digest, range)
        }
    };
    (@method write $inner:ident) => {
        fn write<'store, 'call>(
            &'store self,
            digest: $crate::blob_store::forwarding::Digest,
            blob: $crate::BlobStream,
        ) -> $crate::blob_store::forwarding::Call<'call, Result<(), $crate::Error>>
        where
            'store: 'call,
            Self: 'call,
        {
            self.$inner.write(digest, blob)
        }
    };
    (@method lease $inner:ident) => {
        fn lease<'store, 'digests, 'call>(
            &'store self,
            digests: &'digests [$crate::blob_store::forwarding::Digest],
        ) -> $crate::blob_store::forwarding::Call<'call, Result<$crate::Lease, $crate::Error>>
        where
            'store: 'call,
            'digests: 'call,
            Self: 'call,
        {
            self.$inner.lease(digests)
        }
    };
    (@method resolve $inner:ident) => {
        fn resolve<'store, 'call>(
            &'store self,
            function: $crate::blob_store::forwarding::DigestFunction,
            hash: [u8; 32],
        ) -> $crate::blob_store::forwarding::Call<'call, Result<Option<$crate::blob_store::forwarding::Digest>, $crate::Error>>
        where
            'store: 'call,
            Self: 'call,
        {
            self.$inner.resolve(function, hash)
        }
    };
    (@method read_batch $inner:ident) => {
        fn read_batch<'store, 'digests, 'call>(
            &'store self,
            digests: &'digests [$crate::blob_store::forwarding::Digest],
        ) -> $crate::blob_store::forwarding::Call<'call, Vec<Result<$crate::blob_store::forwarding::Bytes, $crate::Error>>>
        where
            'store: 'call,
            'digests: 'call,
            Self: 'call,
        {
            self.$inner.read_batch(digests)
        }
    };
    (@method write_batch $inner:ident) => {
        fn write_batch<'store, 'call>(
            &'store self,
            blobs: Vec<($crate::blob_store::forwarding::Digest, $crate::blob_store::forwarding::Bytes)>,
        ) -> $crate::blob_store::forwarding::Call<'call, Vec<Result<(), $crate::Error>>>
        where
            'store: 'call,
            Self: 'call,
        {
            self.$inner.write_batch(blobs)
        }
    };
}
