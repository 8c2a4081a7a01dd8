//! Which results a task needs before it can run: a function of the graph alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bitzel_proto::graph::{Recipe, Task, TaskGraph};

/// A graph that cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGraph {
    /// An index points outside the list.
    #[error("task {task} names {what} {index}, which does not exist")]
    Index {
        /// Index of the task.
        task: usize,
        /// What it names.
        what: &'static str,
        /// The index that is too large.
        index: u32,
    },
    /// The run queue has a circle.
    #[error("tasks depend on each other in a circle, {0} is part of it")]
    Circle(String),
}

/// What a task needs from others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskInputs {
    /// The predecessor in the task's own recipe whose private tree is the starting point, if any.
    pub primary: Option<u32>,
    /// Further predecessors in the recipe, in task order, whose changes are merged into that tree.
    pub replay: Vec<u32>,
    /// Tasks whose published paths are staged.
    pub components: Vec<u32>,
    /// Work trees of other recipes that are staged.
    pub foreign: Vec<ForeignTrees>,
}

/// Work trees of another recipe, as some tasks of it leave them together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTrees {
    /// The task whose trees are the starting point.
    pub primary: u32,
    /// Further tasks of that recipe, in task order, whose changes are merged into those trees.
    pub replay: Vec<u32>,
}

impl TaskInputs {
    /// All tasks whose results are needed, each once.
    pub fn required(&self) -> BTreeSet<u32> {
        let own = self.primary.iter().chain(&self.replay);
        own.chain(&self.components)
            .copied()
            .chain(self.foreign_tasks())
            .collect()
    }

    /// Tasks of other recipes whose work trees are looked into.
    pub fn foreign_tasks(&self) -> impl Iterator<Item = u32> {
        self.foreign
            .iter()
            .flat_map(|trees| std::iter::once(trees.primary).chain(trees.replay.iter().copied()))
    }

    /// Tasks whose changes are merged into a tree: what they started with matters, too.
    pub fn replayed_tasks(&self) -> impl Iterator<Item = u32> {
        let foreign = self.foreign.iter().flat_map(|trees| &trees.replay);
        self.replay.iter().chain(foreign).copied()
    }
}

/// A checked graph with what planning looks up often.
#[derive(Debug)]
pub struct TaskIndex {
    graph: TaskGraph,
    dependents: Vec<Vec<u32>>,
    /// Position of each task in a topological order.
    rank: Vec<u32>,
    /// Length of the longest chain of dependents above each task: what to start first.
    height: Vec<u32>,
}

impl TaskIndex {
    /// Checks the graph: every index in range, no circles.
    pub fn new(graph: TaskGraph) -> Result<Self, InvalidGraph> {
        check_indices(&graph)?;
        let count = graph.tasks.len();
        let mut dependents = vec![Vec::new(); count];
        for (task, message) in (0..).zip(&graph.tasks) {
            for dependency in &message.dependencies {
                dependents[*dependency as usize].push(task);
            }
        }
        let order = topological_order(&graph, &dependents)?;
        let mut rank = vec![0; count];
        for (position, task) in (0..).zip(&order) {
            rank[*task as usize] = position;
        }
        let mut height = vec![0; count];
        for task in order.iter().rev() {
            let above = dependents[*task as usize]
                .iter()
                .map(|dependent| height[*dependent as usize] + 1);
            height[*task as usize] = above.max().unwrap_or(0);
        }
        Ok(Self {
            graph,
            dependents,
            rank,
            height,
        })
    }

    /// The graph.
    pub fn graph(&self) -> &TaskGraph {
        &self.graph
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.graph.tasks.len()
    }

    /// Whether there are no tasks.
    pub fn is_empty(&self) -> bool {
        self.graph.tasks.is_empty()
    }

    /// A task.
    pub fn task(&self, task: u32) -> &Task {
        &self.graph.tasks[task as usize]
    }

    /// The recipe of a task.
    pub fn recipe(&self, task: u32) -> &Recipe {
        &self.graph.recipes[self.task(task).recipe as usize]
    }

    /// `BitBake`'s name of a task, `recipe key:do_compile`.
    pub fn task_id(&self, task: u32) -> String {
        format!("{}:{}", self.recipe(task).key, self.task(task).name)
    }

    /// What people call a task, `zlib:do_compile`; with the multiconfig where it is not the default one.
    pub fn display_name(&self, task: u32) -> String {
        format!("{}:{}", self.display_recipe(task), self.task(task).name)
    }

    /// The task's recipe as people name it: `mc:other:zlib` where it is not of the default configuration.
    pub fn display_recipe(&self, task: u32) -> String {
        let recipe = self.recipe(task);
        match recipe.multiconfig.as_str() {
            "" => recipe.package_name.clone(),
            multiconfig => format!("mc:{multiconfig}:{}", recipe.package_name),
        }
    }

    /// Tasks that name `task` as a dependency.
    pub fn dependents(&self, task: u32) -> &[u32] {
        &self.dependents[task as usize]
    }

    /// Position in a topological order.
    pub fn rank(&self, task: u32) -> u32 {
        self.rank[task as usize]
    }

    /// Length of the longest chain of tasks that wait for this one.
    pub fn height(&self, task: u32) -> u32 {
        self.height[task as usize]
    }

    /// What `task` needs from others.
    ///
    /// Of its own recipe it needs the private tree that all its predecessors there leave together. Predecessors that
    /// ran one after the other have it in the last one's result; where two chains ran in parallel (`do_patch` and
    /// `do_prepare_recipe_sysroot`), the longer chain's tree is the start and the other chain's changes are replayed.
    /// Work trees of other recipes are put together in the same way.
    pub fn inputs(&self, task: u32) -> TaskInputs {
        let (primary, replay) = self.join(&self.own_predecessors(task));
        let message = self.task(task);
        let mut heads: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for foreign in message.foreign_work_trees.iter().copied() {
            heads
                .entry(self.task(foreign).recipe)
                .or_default()
                .insert(foreign);
        }
        let foreign = heads.values().filter_map(|heads| {
            let (primary, replay) = self.join(heads);
            primary.map(|primary| ForeignTrees { primary, replay })
        });
        TaskInputs {
            primary,
            replay,
            components: message.components.clone(),
            foreign: foreign.collect(),
        }
    }

    /// Where the trees come from that tasks of one recipe leave together: the task to start with, and the tasks whose
    /// changes it does not have.
    fn join(&self, heads: &BTreeSet<u32>) -> (Option<u32>, Vec<u32>) {
        let mut ancestors: HashMap<u32, BTreeSet<u32>> = HashMap::new();
        for head in heads {
            self.own_ancestors(*head, &mut ancestors);
        }
        let size = |head: &&u32| (ancestors[head].len(), self.rank(**head));
        let primary = heads.iter().max_by_key(size).copied();
        let all: BTreeSet<u32> = heads.iter().flat_map(|head| &ancestors[head]).copied().collect();
        let covered = primary.map(|head| &ancestors[&head]);
        let mut replay: Vec<u32> = all
            .into_iter()
            .filter(|task| covered.is_none_or(|covered| !covered.contains(task)))
            .collect();
        replay.sort_by_key(|task| self.rank(*task));
        (primary, replay)
    }

    /// Direct predecessors in the same recipe that do something; those that do nothing stand for theirs.
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

    /// `task` and all that comes before it in its recipe.
    fn own_ancestors(&self, task: u32, known: &mut HashMap<u32, BTreeSet<u32>>) {
        if known.contains_key(&task) {
            return;
        }
        let mut ancestors = BTreeSet::from([task]);
        for predecessor in self.own_predecessors(task) {
            self.own_ancestors(predecessor, known);
            ancestors.extend(&known[&predecessor]);
        }
        known.insert(task, ancestors);
    }
}

fn check_indices(graph: &TaskGraph) -> Result<(), InvalidGraph> {
    let in_range = |task: usize, what, index: u32, length: usize| {
        if (index as usize) < length {
            Ok(())
        } else {
            Err(InvalidGraph::Index { task, what, index })
        }
    };
    let count = graph.tasks.len();
    for (number, task) in graph.tasks.iter().enumerate() {
        in_range(number, "recipe", task.recipe, graph.recipes.len())?;
        let lists = [
            &task.dependencies,
            &task.hash_dependencies,
            &task.components,
            &task.foreign_work_trees,
        ];
        for index in lists.into_iter().flatten() {
            in_range(number, "task", *index, count)?;
        }
    }
    graph
        .targets
        .iter()
        .try_for_each(|target| in_range(*target as usize, "target", *target, count))
}

fn topological_order(graph: &TaskGraph, dependents: &[Vec<u32>]) -> Result<Vec<u32>, InvalidGraph> {
    let mut missing: Vec<usize> = graph.tasks.iter().map(|task| task.dependencies.len()).collect();
    let mut order: Vec<u32> = (0..)
        .zip(&missing)
        .filter(|(_, missing)| **missing == 0)
        .map(|(task, _)| task)
        .collect();
    let mut next = 0;
    while let Some(task) = order.get(next).copied() {
        next += 1;
        for dependent in &dependents[task as usize] {
            missing[*dependent as usize] -= 1;
            if missing[*dependent as usize] == 0 {
                order.push(*dependent);
            }
        }
    }
    match missing.iter().position(|missing| *missing > 0) {
        None => Ok(order),
        Some(task) => {
            let task = &graph.tasks[task];
            let name = &graph.recipes[task.recipe as usize].package_name;
            Err(InvalidGraph::Circle(format!("{name}:{}", task.name)))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
