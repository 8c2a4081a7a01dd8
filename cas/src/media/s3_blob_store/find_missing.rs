//! Look-up of many blobs in few requests.
//!
//! S3 has no such request. A HEAD answers for one key; a list for up to 1,000 consecutive keys, at about twelve times the
//! price and several times the duration of a HEAD. So a list is better if the requested blobs lie so close together that
//! one page answers for [`MIN_DIGESTS_PER_PAGE`] of them or more. Hashes are spread evenly, so one page shows how close
//! they lie; the others are then listed, or looked up with a HEAD each, many at the same time.

use std::collections::{HashMap, HashSet};

use bitzel_proto::{Digest, DigestFunction};
use futures::{StreamExt, TryStreamExt};

use super::{MAX_CONCURRENT_REQUESTS, S3BlobStore};
use crate::error::Error;
use crate::media::s3_bucket::Object;

/// Number of digests that one page of a list must answer for, which is the number of HEADs that it saves.
const MIN_DIGESTS_PER_PAGE: usize = 20;
/// Lists of one call at the same time.
const MAX_CONCURRENT_LISTS: usize = 64;

/// Number of `wanted`, in the order of their keys, that a page answers for which begins at the first of them.
fn answered_by(wanted: &[(String, Digest)], page: &[Object], more: bool) -> usize {
    match page.last() {
        Some(last) if more => wanted.partition_point(|(key, _)| *key <= last.key),
        _ if more => 0,
        _ => wanted.len(),
    }
}

impl S3BlobStore {
    /// Digests of `digests` that are absent.
    pub(super) async fn find_absent(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let distinct: HashSet<Digest> = digests
            .iter()
            .copied()
            .filter(|digest| !digest.is_empty_blob())
            .collect();
        let mut missing = Vec::new();
        for function in DigestFunction::ALL {
            let of_function = distinct.iter().filter(|digest| digest.function() == function);
            let mut wanted: Vec<(String, Digest)> =
                of_function.map(|digest| (self.key(*digest), *digest)).collect();
            wanted.sort_unstable();
            missing.extend(self.find_sorted(function, &wanted).await?);
        }
        Ok(missing)
    }

    async fn find_sorted(
        &self,
        function: DigestFunction,
        wanted: &[(String, Digest)],
    ) -> Result<Vec<Digest>, Error> {
        if wanted.len() < MIN_DIGESTS_PER_PAGE {
            return self.head_each(wanted).await;
        }
        let (mut missing, known) = self.list_page(function, wanted).await?;
        let rest = &wanted[known..];
        if known < MIN_DIGESTS_PER_PAGE {
            missing.extend(self.head_each(rest).await?);
            return Ok(missing);
        }
        let segments = rest.len().div_ceil(known).clamp(1, MAX_CONCURRENT_LISTS);
        let segments = rest.chunks(rest.len().div_ceil(segments).max(1));
        let lists: Vec<_> = segments.map(|segment| self.list_all(function, segment)).collect();
        let listed: Vec<Vec<Digest>> = futures::stream::iter(lists)
            .buffer_unordered(MAX_CONCURRENT_LISTS)
            .try_collect()
            .await?;
        missing.extend(listed.into_iter().flatten());
        Ok(missing)
    }

    /// Looks up blobs with lists, page after page.
    async fn list_all(
        &self,
        function: DigestFunction,
        mut wanted: &[(String, Digest)],
    ) -> Result<Vec<Digest>, Error> {
        let mut missing = Vec::new();
        while !wanted.is_empty() {
            let (absent, known) = self.list_page(function, wanted).await?;
            missing.extend(absent);
            wanted = &wanted[known..];
            if known == 0 {
                // A server that sends empty pages would cause an endless loop.
                missing.extend(self.head_each(wanted).await?);
                break;
            }
        }
        Ok(missing)
    }

    /// Looks up blobs with one page of a list, from the first of `wanted` on. Returns the missing ones, and the number of
    /// `wanted` that the page answers for.
    async fn list_page(
        &self,
        function: DigestFunction,
        wanted: &[(String, Digest)],
    ) -> Result<(Vec<Digest>, usize), Error> {
        let Some((_, first)) = wanted.first() else {
            return Ok((vec![], 0));
        };
        let (page, more) = self
            .bucket
            .list(&self.prefix_of(function), &self.start_of(*first))
            .await?;
        let known = answered_by(wanted, &page, more);
        let mut objects: HashMap<String, Object> = page
            .into_iter()
            .map(|object| (object.key.clone(), object))
            .collect();
        let found = wanted[..known]
            .iter()
            .map(|(key, digest)| (*digest, objects.remove(key)));
        let missing = futures::stream::iter(found.collect::<Vec<_>>())
            .map(|(digest, object)| async move {
                let is_present = match object {
                    Some(object) => self.is_present(digest, &object).await?,
                    None => false,
                };
                Ok::<_, Error>((!is_present).then_some(digest))
            })
            .buffered(MAX_CONCURRENT_REQUESTS)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await?;
        Ok((missing, known))
    }

    /// Looks up blobs with a HEAD each.
    async fn head_each(&self, wanted: &[(String, Digest)]) -> Result<Vec<Digest>, Error> {
        let digests: Vec<Digest> = wanted.iter().map(|(_, digest)| *digest).collect();
        futures::stream::iter(digests)
            .map(|digest| async move { Ok((!self.has(digest).await?).then_some(digest)) })
            .buffered(MAX_CONCURRENT_REQUESTS)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sha256;

    fn object(key: &str) -> Object {
        Object {
            key: key.into(),
            size: 1,
            modified: None,
        }
    }

    #[test]
    fn page_answers_up_to_its_last_key_and_last_page_for_all() {
        let wanted: Vec<(String, Digest)> = ["a", "c", "e"].map(|key| (key.into(), sha256(b"x"))).into();
        assert_eq!(answered_by(&wanted, &[object("a"), object("b")], true), 1);
        assert_eq!(answered_by(&wanted, &[object("b"), object("c")], true), 2);
        assert_eq!(answered_by(&wanted, &[object("b"), object("d")], false), 3);
        assert_eq!(answered_by(&wanted, &[], false), 3);
        assert_eq!(answered_by(&wanted, &[], true), 0);
    }
}
