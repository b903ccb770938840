/* Binary search tree of distinct integers. */
#include "corpus.h"

#include <stdlib.h>

/* Add a key as a new leaf of the search tree unless it is already present. */
bool tree_insert(struct tree **root, int key)
{
    struct tree *leaf;

    while (*root != NULL) {
        if (key == (*root)->key)
            return false;
        root = key < (*root)->key ? &(*root)->left : &(*root)->right;
    }
    leaf = calloc(1, sizeof *leaf);
    if (leaf == NULL)
        return false;
    leaf->key = key;
    *root = leaf;
    return true;
}

/* Descend the search tree to tell whether a key is in it. */
bool tree_contains(const struct tree *root, int key)
{
    while (root != NULL) {
        if (root->key == key)
            return true;
        root = root->key < key ? root->right : root->left;
    }
    return false;
}

/*
 * Remove a key from the search tree and free a node. A node with two children
 * takes over the smallest key of its right subtree, and the node that held that
 * key is freed instead.
 */
bool tree_delete(struct tree **root, int key)
{
    struct tree *victim;

    while (*root != NULL && (*root)->key != key)
        root = key < (*root)->key ? &(*root)->left : &(*root)->right;
    if (*root == NULL)
        return false;
    victim = *root;
    if (victim->left != NULL && victim->right != NULL) {
        struct tree *holder = victim;

        root = &holder->right;
        while ((*root)->left != NULL)
            root = &(*root)->left;
        victim = *root;
        holder->key = victim->key;
    }
    *root = victim->left != NULL ? victim->left : victim->right;
    free(victim);
    return true;
}

/* Return the number of nodes on the longest path from the root to a leaf. */
int tree_height(const struct tree *root)
{
    int left, right;

    if (root == NULL)
        return 0;
    left = tree_height(root->left);
    right = tree_height(root->right);
    return 1 + (left > right ? left : right);
}

/* Verify that every key of the tree lies between its nearest neighbours in the subtrees below. */
bool tree_is_ordered(const struct tree *root)
{
    const struct tree *near;

    if (root == NULL)
        return true;
    for (near = root->left; near != NULL && near->right != NULL;)
        near = near->right;
    if (near != NULL && near->key >= root->key)
        return false;
    for (near = root->right; near != NULL && near->left != NULL;)
        near = near->left;
    if (near != NULL && near->key <= root->key)
        return false;
    return tree_is_ordered(root->left) && tree_is_ordered(root->right);
}

/**
 * Find the node whose key has a given rank in ascending order.
 *
 * @param rank  zero-based rank; it is counted down during the search
 * @return the node, or NULL if the tree has too few nodes
 */
const struct tree *tree_kth(const struct tree *root, size_t *rank)
{
    const struct tree *found;

    if (root == NULL)
        return NULL;
    found = tree_kth(root->left, rank);
    if (found != NULL)
        return found;
    if (*rank == 0)
        return root;
    --*rank;
    return tree_kth(root->right, rank);
}

/* Add up all keys of the tree that lie in a closed interval, skipping subtrees outside it. */
long tree_range_sum(const struct tree *root, int low, int high)
{
    long sum = 0;

    while (root != NULL) {
        if (root->key < low) {
            root = root->right;
        } else if (root->key > high) {
            root = root->left;
        } else {
            sum += root->key + tree_range_sum(root->left, low, high);
            root = root->right;
        }
    }
    return sum;
}

/* Write the keys of the tree in ascending order into an array of limited size. */
size_t tree_flatten(const struct tree *root, int *out, size_t room)
{
    size_t written;

    if (root == NULL || room == 0)
        return 0;
    written = tree_flatten(root->left, out, room);
    if (written < room)
        out[written++] = root->key;
    return written + tree_flatten(root->right, out + written, room - written);
}

// Find the deepest node that has both given keys at or below it.
const struct tree *tree_common_ancestor(const struct tree *root, int a, int b)
{
    if (!tree_contains(root, a) || !tree_contains(root, b))
        return NULL;
    for (;;) {
        if (a < root->key && b < root->key)
            root = root->left;
        else if (a > root->key && b > root->key)
            root = root->right;
        else
            return root;
    }
}

/* Build a search tree of least height from an ascending array of distinct keys. */
struct tree *tree_balanced(const int *keys, size_t count)
{
    size_t middle = count / 2;
    struct tree *root;

    if (count == 0)
        return NULL;
    root = malloc(sizeof *root);
    if (root == NULL)
        return NULL;
    root->key = keys[middle];
    root->left = tree_balanced(keys, middle);
    root->right = tree_balanced(keys + middle + 1, count - middle - 1);
    return root;
}

/* Release all nodes of the tree, children before their parents. */
void tree_free(struct tree *root)
{
    if (root == NULL)
        return;
    tree_free(root->left);
    tree_free(root->right);
    free(root);
}
