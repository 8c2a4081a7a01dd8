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
    /// Predecessors in the task's own recipe.
    pub own: TreeSources,
    /// Tasks whose published paths are staged.
    pub components: Vec<u32>,
    /// Other recipes whose private trees are staged, by index of the recipe.
    pub foreign: BTreeMap<u32, TreeSources>,
}

/// Tasks of one recipe that left its private trees together.
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

    /// All private trees, the own ones first.
    pub fn trees(&self) -> impl Iterator<Item = &TreeSources> {
        std::iter::once(&self.own).chain(self.foreign.values())
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
    pub fn inputs(&self, task: u32) -> TaskInputs {
        let message = self.task(task);
        let mut foreign: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for named in &message.foreign_work_trees {
            foreign
                .entry(self.task(*named).recipe)
                .or_default()
                .insert(*named);
        }
        TaskInputs {
            own: self.tree_sources(&self.own_predecessors(task)),
            components: message.components.clone(),
            foreign: foreign
                .into_iter()
                .map(|(recipe, heads)| (recipe, self.tree_sources(&heads)))
                .collect(),
        }
    }

    /// The tasks whose private trees are what `heads`, tasks of one recipe, leave together.
    ///
    /// Tasks that ran one after the other have it in the last one's result; where two chains ran in parallel
    /// (`do_patch` and `do_prepare_recipe_sysroot`), the longer chain's tree is the start and the other chain's changes
    /// are replayed.
    fn tree_sources(&self, heads: &BTreeSet<u32>) -> TreeSources {
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
        TreeSources { primary, replay }
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
