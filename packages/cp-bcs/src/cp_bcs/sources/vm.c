/* A small stack machine: interpreter, disassembler, assembler and console commands. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[OP_COUNT] = {
    "halt", "push", "pop", "dup", "swap", "add", "sub", "mul", "div",
    "neg", "load", "store", "jump", "jzero", "less", "equal",
};
static const uint8_t needs[OP_COUNT] = {0, 0, 1, 1, 2, 2, 2, 2, 2, 1, 0, 1, 0, 1, 2, 2};

static bool has_operand(uint8_t opcode)
{
    return opcode == OP_PUSH || (opcode >= OP_LOAD && opcode <= OP_JZERO);
}

/* vm_run: Execute byte code on the stack machine until it halts, fails or uses up its budget. */
enum vm_status vm_run(struct vm *vm, const uint8_t *code, size_t size, unsigned budget)
{
    while (budget-- > 0) {
        uint8_t opcode, operand = 0;
        int32_t *top;

        if (vm->counter >= size)
            return VM_BAD_TARGET;
        opcode = code[vm->counter++];
        if (opcode >= OP_COUNT)
            return VM_BAD_OPCODE;
        if (has_operand(opcode)) {
            if (vm->counter >= size)
                return VM_BAD_TARGET;
            operand = code[vm->counter++];
        }
        if (vm->depth < needs[opcode])
            return VM_UNDERFLOW;
        if (vm->depth == VM_STACK && (opcode == OP_PUSH || opcode == OP_DUP || opcode == OP_LOAD))
            return VM_OVERFLOW;
        top = vm->stack + vm->depth;
        switch (opcode) {
        case OP_HALT: return VM_OK;
        case OP_PUSH: *top = operand < 128 ? operand : operand - 256; vm->depth++; break;
        case OP_POP: vm->depth--; break;
        case OP_DUP: *top = top[-1]; vm->depth++; break;
        case OP_SWAP: { int32_t saved = top[-1]; top[-1] = top[-2]; top[-2] = saved; break; }
        case OP_ADD: top[-2] = (int32_t)((uint32_t)top[-2] + (uint32_t)top[-1]); vm->depth--; break;
        case OP_SUB: top[-2] = (int32_t)((uint32_t)top[-2] - (uint32_t)top[-1]); vm->depth--; break;
        case OP_MUL: top[-2] = (int32_t)((uint32_t)top[-2] * (uint32_t)top[-1]); vm->depth--; break;
        case OP_DIV:
            if (!vm_binary('/', top[-2], top[-1], &top[-2]))
                return VM_DIVISION;
            vm->depth--;
            break;
        case OP_NEG: top[-1] = (int32_t)(0u - (uint32_t)top[-1]); break;
        case OP_LOAD: *top = vm->slots[operand % VM_SLOTS]; vm->depth++; break;
        case OP_STORE: vm->slots[operand % VM_SLOTS] = top[-1]; vm->depth--; break;
        case OP_JUMP: vm->counter = operand; break;
        case OP_LESS: top[-2] = top[-2] < top[-1]; vm->depth--; break;
        case OP_EQUAL: top[-2] = top[-2] == top[-1]; vm->depth--; break;
        case OP_JZERO:
            vm->depth--;
            if (top[-1] == 0)
                vm->counter = operand;
            break;
        }
    }
    return VM_TIMEOUT;
}

/* Describe the outcome of a program run in a few words. */
const char *vm_status_text(enum vm_status status)
{
    switch (status) {
    case VM_OK: return "finished";
    case VM_BAD_OPCODE: return "unknown opcode";
    case VM_UNDERFLOW: return "stack underflow";
    case VM_OVERFLOW: return "stack overflow";
    case VM_DIVISION: return "division by zero";
    case VM_BAD_TARGET: return "ran off the program";
    case VM_TIMEOUT: return "instruction budget used up";
    }
    return "unknown status";
}

/* Format one instruction as text and return how many bytes of code it takes. */
size_t vm_disassemble(const uint8_t *code, size_t size, size_t at, char *out, size_t room)
{
    uint8_t opcode;

    if (at >= size)
        return 0;
    opcode = code[at];
    if (opcode >= OP_COUNT || (has_operand(opcode) && at + 1 == size)) {
        snprintf(out, room, "%04zx  .byte 0x%02x", at, opcode);
        return 1;
    }
    if (!has_operand(opcode)) {
        snprintf(out, room, "%04zx  %s", at, names[opcode]);
        return 1;
    }
    snprintf(out, room, "%04zx  %-6s %d", at, names[opcode], code[at + 1]);
    return 2;
}

/* Assemble mnemonics and operands separated by spaces or newlines into byte code. */
long vm_assemble(const char *source, uint8_t *code, size_t room)
{
    size_t count = 0;

    while (*(source += strspn(source, " \n")) != '\0') {
        size_t length = strcspn(source, " \n");
        uint8_t opcode = 0;

        while (opcode < OP_COUNT && (strncmp(names[opcode], source, length) != 0 || names[opcode][length]))
            opcode++;
        if (opcode == OP_COUNT || room - count < 1u + has_operand(opcode))
            return -1;
        code[count++] = opcode;
        source += length;
        if (has_operand(opcode)) {
            char *end;

            code[count++] = (uint8_t)strtol(source, &end, 10);
            if (end == source)
                return -1;
            source = end;
        }
    }
    return (long)count;
}

/* Check that every opcode is known and every jump leads into the program. */
bool vm_verify(const uint8_t *code, size_t size, size_t *where)
{
    for (*where = 0; *where < size; *where += 1u + has_operand(code[*where])) {
        uint8_t opcode = code[*where];

        if (opcode >= OP_COUNT || (has_operand(opcode) && *where + 1 == size))
            return false;
        if ((opcode == OP_JUMP || opcode == OP_JZERO) && code[*where + 1] >= size)
            return false;
    }
    return true;
}

/* Apply the operator named by a character to two numbers, failing on division by zero. */
bool vm_binary(char operation, int32_t a, int32_t b, int32_t *result)
{
    uint32_t x = (uint32_t)a, y = (uint32_t)b;

    switch (operation) {
    case '%': case '/':
        if (b == 0)
            return false;
        if (b == -1)
            *result = operation == '/' ? (int32_t)(0 - x) : 0;
        else
            *result = operation == '/' ? a / b : a % b;
        return true;
    case '&': *result = a & b; return true;
    case '*': *result = (int32_t)(x * y); return true;
    case '+': *result = (int32_t)(x + y); return true;
    case '-': *result = (int32_t)(x - y); return true;
    case '<': *result = a < b; return true;
    case '=': *result = a == b; return true;
    case '>': *result = a > b; return true;
    case '^': *result = a ^ b; return true;
    case '|': *result = a | b; return true;
    default: return false;
    }
}

/* Act on a single key of the debugger console by changing the stack or the counter. */
int vm_keypress(struct vm *vm, int key)
{
    switch (key) {
    case 'a': return vm->depth > 0 ? vm->stack[0] : 0;
    case 'b': vm->counter -= vm->counter > 0; return (int)vm->counter;
    case 'c': memset(vm->slots, 0, sizeof vm->slots); return 0;
    case 'd': return (int)vm->depth;
    case 'e': vm->depth = 0; return 0;
    case 'f': vm->counter++; return (int)vm->counter;
    case 'g': vm->counter = vm->depth > 0 ? (size_t)(vm->stack[--vm->depth] & 0xFF) : 0; return 1;
    case 'h': puts("keys: a-h, r, t"); return 0;
    case 'r': vm->counter = 0; return 0;
    case 't': return vm->depth > 0 ? vm->stack[vm->depth - 1] : -1;
    default: return -2;
    }
}
