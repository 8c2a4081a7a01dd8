//! Results that a task needs before it can run: a function of the graph alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::task_index::TaskIndex;

/// Results of other tasks that a task needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskInputs {
    /// Predecessors in the task's own recipe, whose private trees it continues.
    pub own: TreeSources,
    /// Tasks whose published paths are staged.
    pub components: Vec<u32>,
    /// Other recipes whose private trees are staged, by index of the recipe.
    pub foreign: BTreeMap<u32, TreeSources>,
}

/// Tasks of one recipe whose results together are its private trees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeSources {
    /// The task whose trees are the starting point, if any.
    pub primary: Option<u32>,
    /// Further tasks, in task order, whose changes are merged into these trees.
    pub replay: Vec<u32>,
}

impl TreeSources {
    fn tasks(&self) -> impl Iterator<Item = u32> {
        self.primary.iter().chain(&self.replay).copied()
    }
}

impl TaskInputs {
    /// All tasks whose results are needed, each once.
    pub fn required(&self) -> BTreeSet<u32> {
        let foreign = self.foreign.values().flat_map(TreeSources::tasks);
        let trees = self.own.tasks().chain(foreign);
        trees.chain(self.components.iter().copied()).collect()
    }

    /// Sources of all private trees, those of the own recipe first.
    pub fn trees(&self) -> impl Iterator<Item = &TreeSources> {
        std::iter::once(&self.own).chain(self.foreign.values())
    }
}

impl TaskIndex {
    /// Results of other tasks that `task` needs, if none of them is restored.
    pub fn inputs(&self, task: u32) -> TaskInputs {
        self.inputs_beside_restored(task, &BTreeSet::new())
    }

    /// Results that the setscene task of `task` needs.
    pub fn setscene_inputs(&self, task: u32) -> TaskInputs {
        TaskInputs {
            components: self.task(task).setscene_dependencies.clone(),
            ..TaskInputs::default()
        }
    }

    /// Results of other tasks that `task` needs.
    ///
    /// The trees of a `restored` task hold nothing of its predecessors, so it counts as a task without predecessors: its
    /// trees are merged into those of the tasks beside it.
    pub fn inputs_beside_restored(&self, task: u32, restored: &BTreeSet<u32>) -> TaskInputs {
        let message = self.task(task);
        let mut foreign: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for named in &message.foreign_work_trees {
            foreign
                .entry(self.task(*named).recipe)
                .or_default()
                .insert(*named);
        }
        TaskInputs {
            own: self.tree_sources(&self.own_predecessors(task), restored),
            components: message.components.clone(),
            foreign: foreign
                .into_iter()
                .map(|(recipe, heads)| (recipe, self.tree_sources(&heads, restored)))
                .collect(),
        }
    }

    /// Selects the tasks whose results give the private trees that `heads`, tasks of one recipe, left together.
    ///
    /// Of tasks that ran one after the other it is the last one. Where two chains ran in parallel (`do_patch` and
    /// `do_prepare_recipe_sysroot`), the tree of the longer chain is the start, and the changes of the other chain are
    /// replayed.
    fn tree_sources(&self, heads: &BTreeSet<u32>, restored: &BTreeSet<u32>) -> TreeSources {
        let mut ancestors: HashMap<u32, BTreeSet<u32>> = HashMap::new();
        for head in heads {
            self.own_ancestors(*head, restored, &mut ancestors);
        }
        let size = |head: &&u32| {
            (
                !restored.contains(*head),
                ancestors[head].len(),
                self.rank(**head),
            )
        };
        let primary = heads.iter().max_by_key(size).copied();
        let all: BTreeSet<u32> = heads.iter().flat_map(|head| &ancestors[head]).copied().collect();
        let covered = primary.map(|head| &ancestors[&head]);
        let mut replay: Vec<u32> = all
            .into_iter()
            .filter(|task| covered.is_none_or(|covered| !covered.contains(task)))
            .collect();
        replay.sort_by_key(|task| self.rank(*task));
        TreeSources { primary, replay }
    }

    /// Direct predecessors in the same recipe. A predecessor that has nothing to do (`noexec`) is replaced by its own.
    fn own_predecessors(&self, task: u32) -> BTreeSet<u32> {
        let recipe = self.task(task).recipe;
        let mut found = BTreeSet::new();
        let mut pending = vec![task];
        while let Some(next) = pending.pop() {
            for dependency in self.task(next).dependencies.iter().copied() {
                if self.task(dependency).recipe != recipe {
                    continue;
                }
                if self.task(dependency).noexec {
                    pending.push(dependency);
                } else {
                    found.insert(dependency);
                }
            }
        }
        found
    }

    /// Adds `task` with all of its predecessors in its recipe to `known`.
    fn own_ancestors(&self, task: u32, restored: &BTreeSet<u32>, known: &mut HashMap<u32, BTreeSet<u32>>) {
        if known.contains_key(&task) {
            return;
        }
        let mut ancestors = BTreeSet::from([task]);
        if !restored.contains(&task) {
            for predecessor in self.own_predecessors(task) {
                self.own_ancestors(predecessor, restored, known);
                ancestors.extend(&known[&predecessor]);
            }
        }
        known.insert(task, ancestors);
    }
}

#[cfg(test)]
mod tests;
