// A first-in first-out queue. `head` is valid while `level` is not zero.

`default_nettype none

module cosim_fifo #(
    parameter WIDTH = 8,
    parameter DEPTH = 32  // a power of two
) (
    input  wire                   clk,
    input  wire                   rst,
    input  wire                   push,
    input  wire [WIDTH-1:0]       tail,
    input  wire                   pop,
    output wire [WIDTH-1:0]       head,
    output reg  [$clog2(DEPTH):0] level
);
    reg [WIDTH-1:0]         items [0:DEPTH-1];
    reg [$clog2(DEPTH)-1:0] first, free;

    assign head = items[first];

    always @(posedge clk) begin
        if (push) begin
            items[free] <= tail;
            free <= free + 1;
        end
        if (pop) first <= first + 1;
        if (push != pop) level <= push ? level + 1 : level - 1;
        if (rst) begin
            level <= 0;
            first <= 0;
            free <= 0;
        end
    end
endmodule

`default_nettype wire
