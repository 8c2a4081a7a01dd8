//! Which of many blobs are missing, in few requests.
//!
//! S3 has no such question. A HEAD answers for one key; a list for up to 1,000 keys that follow each other,
//! at about twelve times the price and several times the duration of a HEAD. So a list is worth it if the blobs asked
//! for lie close enough together that one page answers for [`WORTH`] of them or more. Hashes are spread evenly, so one
//! page tells how close they lie; everything else is then listed, or asked for one by one, many at a time.

use std::collections::{HashMap, HashSet};

use bitzel_proto::{Digest, DigestFunction};
use futures::{StreamExt, TryStreamExt};

use super::{CONCURRENCY, S3BlobStore};
use crate::error::Error;
use crate::media::s3_bucket::Object;

/// HEADs that a page of a list must save.
const WORTH: usize = 20;
/// Lists under way at the same time for one call.
const LISTS: usize = 64;

/// For how many of `wanted`, in the order of their keys, a page answers that begins at the first of them.
fn decided(wanted: &[(String, Digest)], page: &[Object], more: bool) -> usize {
    match page.last() {
        Some(last) if more => wanted.partition_point(|(key, _)| *key <= last.key),
        _ if more => 0,
        _ => wanted.len(),
    }
}

impl S3BlobStore {
    pub(super) async fn find(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
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
        if wanted.len() < WORTH {
            return self.ask_each(wanted).await;
        }
        let (mut missing, known) = self.list_page(function, wanted).await?;
        let rest = &wanted[known..];
        if known < WORTH {
            missing.extend(self.ask_each(rest).await?);
            return Ok(missing);
        }
        let segments = rest.len().div_ceil(known).clamp(1, LISTS);
        let segments = rest.chunks(rest.len().div_ceil(segments).max(1));
        let lists: Vec<_> = segments.map(|segment| self.list_all(function, segment)).collect();
        let listed: Vec<Vec<Digest>> = futures::stream::iter(lists)
            .buffer_unordered(LISTS)
            .try_collect()
            .await?;
        missing.extend(listed.into_iter().flatten());
        Ok(missing)
    }

    /// Lists page after page.
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
                // A server that sends empty pages would be asked for ever.
                missing.extend(self.ask_each(wanted).await?);
                break;
            }
        }
        Ok(missing)
    }

    /// One page from the first of `wanted` on: what is missing, and for how many of them it answers.
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
        let known = decided(wanted, &page, more);
        let mut objects: HashMap<String, Object> = page
            .into_iter()
            .map(|object| (object.key.clone(), object))
            .collect();
        let found = wanted[..known]
            .iter()
            .map(|(key, digest)| (*digest, objects.remove(key)));
        let missing = futures::stream::iter(found.collect::<Vec<_>>())
            .map(|(digest, object)| async move {
                let there = match object {
                    Some(object) => self.keep(digest, &object).await?,
                    None => false,
                };
                Ok::<_, Error>((!there).then_some(digest))
            })
            .buffered(CONCURRENCY)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await?;
        Ok((missing, known))
    }

    async fn ask_each(&self, wanted: &[(String, Digest)]) -> Result<Vec<Digest>, Error> {
        let digests: Vec<Digest> = wanted.iter().map(|(_, digest)| *digest).collect();
        futures::stream::iter(digests)
            .map(|digest| async move { Ok((!self.has(digest).await?).then_some(digest)) })
            .buffered(CONCURRENCY)
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
    fn a_page_answers_up_to_its_last_key_and_the_last_page_for_all() {
        let wanted: Vec<(String, Digest)> = ["a", "c", "e"].map(|key| (key.into(), sha256(b"x"))).into();
        assert_eq!(decided(&wanted, &[object("a"), object("b")], true), 1);
        assert_eq!(decided(&wanted, &[object("b"), object("c")], true), 2);
        assert_eq!(decided(&wanted, &[object("b"), object("d")], false), 3);
        assert_eq!(decided(&wanted, &[], false), 3);
        assert_eq!(decided(&wanted, &[], true), 0);
    }
}
