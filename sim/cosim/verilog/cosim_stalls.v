// Random stalls, one decision per channel and cycle, from one 64-bit shift register with linear feedback.
//
// A channel stalls with probability n / 256, n being its input. Writing another seed restarts the sequence; the
// sequence depends on nothing but the seed and the number of cycles since.

`default_nettype none

module cosim_stalls (
    input  wire        clk,
    input  wire [31:0] seed,
    input  wire  [7:0] ar, r, aw, w, b, register,
    output wire        stall_ar, stall_r, stall_aw, stall_w, stall_b, stall_register,
    output wire  [7:0] random_byte
);
    reg [63:0] state = 64'h0123_4567_89ab_cdef;
    reg [31:0] used_seed = 0;

    // Marsaglia's xorshift with the shifts 13, 7, 17: 64 new bits per cycle, never zero.
    wire [63:0] step1 = state ^ (state << 13);
    wire [63:0] step2 = step1 ^ (step1 >> 7);

    always @(posedge clk) begin
        used_seed <= seed;
        state <= seed != used_seed ? {~seed, seed} : step2 ^ (step2 << 17);
    end

    assign stall_ar       = state[7:0] < ar;
    assign stall_r        = state[15:8] < r;
    assign stall_aw       = state[23:16] < aw;
    assign stall_w        = state[31:24] < w;
    assign stall_b        = state[39:32] < b;
    assign stall_register = state[47:40] < register;
    assign random_byte    = state[55:48];
endmodule

`default_nettype wire
