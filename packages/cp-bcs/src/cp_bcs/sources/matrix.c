/* Matrices of double with dense storage by rows. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

static double magnitude(double x)
{
    return x < 0 ? -x : x;
}

static void swap_rows(double *a, double *b, size_t count)
{
    while (count-- > 0) {
        double saved = *a;

        *a++ = *b;
        *b++ = saved;
    }
}

static size_t pivot_row(const double *cells, size_t n, size_t column)
{
    size_t best = column;

    for (size_t row = column + 1; row < n; row++) {
        if (magnitude(cells[row * n + column]) > magnitude(cells[best * n + column]))
            best = row;
    }
    return best;
}

/* Allocate the cells of a matrix and set them all to zero. */
bool matrix_init(struct matrix *matrix, size_t rows, size_t columns)
{
    matrix->cells = NULL;
    matrix->rows = matrix->columns = 0;
    if (rows == 0 || columns == 0 || columns > SIZE_MAX / sizeof(double) / rows)
        return false;
    matrix->cells = malloc(rows * columns * sizeof(double));
    if (matrix->cells == NULL)
        return false;
    for (size_t i = 0; i < rows * columns; i++)
        matrix->cells[i] = 0.0;
    matrix->rows = rows;
    matrix->columns = columns;
    return true;
}

/* Free the cells of a matrix and make it empty. */
void matrix_release(struct matrix *matrix)
{
    if (matrix == NULL)
        return;
    free(matrix->cells);
    matrix->cells = NULL;
    matrix->rows = 0;
    matrix->columns = 0;
}

/**
 * matrix_multiply: Compute the product of two matrices into a new matrix.
 *
 * @param a        left factor
 * @param b        right factor, with as many rows as the left one has columns
 * @param product  matrix to be initialized with the result
 * @return false if the sizes do not fit or memory ran out
 */
bool matrix_multiply(const struct matrix *a, const struct matrix *b, struct matrix *product)
{
    if (a->columns != b->rows || !matrix_init(product, a->rows, b->columns))
        return false;
    for (size_t i = 0; i < a->rows; i++) {
        for (size_t k = 0; k < a->columns; k++) {
            double factor = a->cells[i * a->columns + k];

            for (size_t j = 0; j < b->columns; j++)
                product->cells[i * b->columns + j] += factor * b->cells[k * b->columns + j];
        }
    }
    return true;
}

/* Create a new matrix in which rows and columns are exchanged. */
bool matrix_transpose(const struct matrix *matrix, struct matrix *result)
{
    if (!matrix_init(result, matrix->columns, matrix->rows))
        return false;
    for (size_t i = 0; i < matrix->rows; i++) {
        for (size_t j = 0; j < matrix->columns; j++)
            result->cells[j * matrix->rows + i] = matrix->cells[i * matrix->columns + j];
    }
    return true;
}

/* Sum the cells on the main diagonal of a matrix. */
double matrix_trace(const struct matrix *matrix)
{
    double sum = 0.0;

    for (size_t i = 0; i < matrix->rows && i < matrix->columns; i++)
        sum += matrix->cells[i * matrix->columns + i];
    return sum;
}

/* Compute the determinant of a square matrix by elimination on a copy of its cells. */
bool matrix_determinant(const struct matrix *matrix, double *result)
{
    size_t n = matrix->rows;
    double *work;

    if (n == 0 || n != matrix->columns || (work = malloc(n * n * sizeof *work)) == NULL)
        return false;
    memcpy(work, matrix->cells, n * n * sizeof *work);
    *result = 1.0;
    for (size_t column = 0; column < n; column++) {
        size_t pivot = pivot_row(work, n, column);

        if (pivot != column) {
            swap_rows(work + pivot * n, work + column * n, n);
            *result = -*result;
        }
        *result *= work[column * n + column];
        if (*result == 0.0)
            break;
        for (size_t row = column + 1; row < n; row++) {
            double factor = work[row * n + column] / work[column * n + column];

            for (size_t j = column; j < n; j++)
                work[row * n + j] -= factor * work[column * n + j];
        }
    }
    free(work);
    return true;
}

/**
 * Solve a square system of linear equations by Gaussian elimination.
 *
 * The matrix is destroyed in the course of this, and the right-hand side is
 * replaced by the solution. False means that the matrix is singular.
 */
bool matrix_solve(struct matrix *left, double *right)
{
    size_t n = left->rows;
    double *cells = left->cells;

    for (size_t column = 0; column < n; column++) {
        size_t pivot = pivot_row(cells, n, column);

        if (magnitude(cells[pivot * n + column]) < 1e-12)
            return false;
        if (pivot != column) {
            swap_rows(cells + pivot * n, cells + column * n, n);
            swap_rows(right + pivot, right + column, 1);
        }
        for (size_t row = column + 1; row < n; row++) {
            double factor = cells[row * n + column] / cells[column * n + column];

            for (size_t j = column; j < n; j++)
                cells[row * n + j] -= factor * cells[column * n + j];
            right[row] -= factor * right[column];
        }
    }
    for (size_t row = n; row-- > 0;) {
        for (size_t j = row + 1; j < n; j++)
            right[row] -= cells[row * n + j] * right[j];
        right[row] /= cells[row * n + row];
    }
    return true;
}

/* Find the largest sum of absolute values in any row of the matrix. */
double matrix_max_row_sum(const struct matrix *matrix)
{
    const double *cell = matrix->cells;
    double largest = 0.0;

    for (size_t row = 0; row < matrix->rows; row++) {
        double sum = 0.0;

        for (size_t left = matrix->columns; left > 0; left--)
            sum += magnitude(*cell++);
        if (sum > largest)
            largest = sum;
    }
    return largest;
}

// Print the matrix with three decimals, one row on a line.
void matrix_print(const struct matrix *matrix, FILE *stream)
{
    for (size_t i = 0; i < matrix->rows; i++) {
        for (size_t j = 0; j < matrix->columns; j++)
            fprintf(stream, "%s%8.3f", j > 0 ? " " : "", matrix->cells[i * matrix->columns + j]);
        fputc('\n', stream);
    }
}
